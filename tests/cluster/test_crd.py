"""What the API server refuses of a job by the committed definition, with the field named, and what it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import crdcases
from llmbatch.api.base import API_VERSION, KIND
from llmbatch.cluster import paths
from llmbatch.errors import RejectedError
from operatorkit import Body, Kube, kube

pytestmark = pytest.mark.cluster
COMMITTED = Path(__file__).parents[2] / "crds" / "llmbatch.dev_llmbatchjobs.yaml"


@pytest.fixture(scope="module")
def api(kubeconfig: Path) -> Iterator[Kube]:
    """Return a namespace with one stored job, `stored`, of the plain spec."""
    with kube(kubeconfig) as made:
        made.create(document("stored", {}))
        yield made


def document(name: str, change: dict[str, Any]) -> Body:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": crdcases.spec(change)}


def create(api: Kube, change: dict[str, Any]) -> None:
    """Create a job as `kubectl apply --dry-run=server` does, which refuses unknown fields."""
    path = paths.collection(KIND, api.namespace)
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    api.thread.run(api.client._request("POST", path, document("new", change), query=query))


def replace(api: Kube, change: dict[str, Any], name: str = "stored") -> None:
    """Replace the spec of a stored job, without storing it."""
    path = paths.single(KIND, api.namespace, name)
    body = document(name, change)
    stored = api.get(KIND, name)
    assert stored is not None
    body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    api.thread.run(api.client._request("PUT", path, body, query={"dryRun": "All"}))


@contextmanager
def refused(case: crdcases.Refused) -> Iterator[None]:
    """Hold that what is done is refused, in the words of the case."""
    with pytest.raises(RejectedError) as error:
        yield
    assert case.field in str(error.value)
    assert case.says in str(error.value)


def test_the_cluster_has_the_committed_definition(kubeconfig: Path):
    with kube(kubeconfig) as api:
        stored = api.get_at("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmbatchjobs.llmbatch.dev")
    assert stored is not None
    committed = yaml.safe_load(COMMITTED.read_text())["spec"]["versions"][0]["schema"]
    assert stored["spec"]["versions"][0]["schema"] == committed


@pytest.mark.parametrize("change", crdcases.ACCEPTED.values(), ids=crdcases.ACCEPTED.keys())
def test_the_api_server_accepts_what_users_write(api: Kube, change: dict[str, Any]):
    create(api, change)


@pytest.mark.parametrize("case", crdcases.REFUSED, ids=str)
def test_the_api_server_refuses_a_mistake_and_names_its_field(api: Kube, case: crdcases.Refused):
    with refused(case):
        create(api, case.change)


@pytest.mark.parametrize("change", crdcases.CHANGES_ALLOWED.values(), ids=crdcases.CHANGES_ALLOWED.keys())
def test_the_api_server_accepts_a_change_of_what_may_change(api: Kube, change: dict[str, Any]):
    replace(api, change)


@pytest.mark.parametrize("case", crdcases.CHANGES_REFUSED, ids=str)
def test_the_api_server_refuses_a_change_of_what_is_read_or_written(api: Kube, case: crdcases.Refused):
    with refused(case):
        replace(api, case.change)


def test_the_size_of_a_worker_stays_as_it_was_given(api: Kube):
    api.create(document("sized", {"capacity": {"gpusPerWorker": 2}}))
    for change in ({"capacity": {"gpusPerWorker": 4}}, {"capacity": {"spot": {"max": 3}}}, {}):
        with refused(crdcases.Refused("spec.capacity.gpusPerWorker", change, "immutable: create another job")):
            replace(api, change, "sized")
    replace(api, {"capacity": {"gpusPerWorker": 2, "spot": {"max": 3}}}, "sized")
