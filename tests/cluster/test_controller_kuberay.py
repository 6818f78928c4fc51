"""A cluster that lacks a definition yet, of KubeRay or of the jobs: its installation is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from testbed import binaries

from clusterkit import local_cluster, missing_rights
from llmbatch.api.base import KIND
from llmbatch.api.crd import custom_resource_definition
from llmbatch.cluster import paths
from llmbatch.errors import LLMBatchError
from operatorkit import Kube, job, kube, operating

pytestmark = pytest.mark.cluster
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RAY_CLUSTERS = "rayclusters.ray.io"
FAILURE = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreatePod",
    "message": "exceeded quota",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """Return the kubeconfig of an API server without KubeRay's definitions."""
    if why := missing_rights():
        pytest.skip(f"no test cluster: {why}")
    with local_cluster(tmp_path, "--api-only") as kubeconfig:
        with kube(kubeconfig) as api:
            api.delete_at(f"{DEFINITIONS}/{RAY_CLUSTERS}")
            api.wait(lambda: not served(api))
        yield kubeconfig


def served(api: Kube) -> bool:
    found = api.get_at(paths.RAY_GROUP) or {"resources": []}
    return any(item["name"] == "rayclusters" for item in found["resources"])


def stores_jobs(api: Kube) -> bool:
    """Tell whether jobs can be listed: their definition is served a moment before they are stored."""
    try:
        return api.get_at(paths.collection(KIND, api.namespace)) is not None
    except LLMBatchError:
        return False


def install(api: Kube) -> None:
    files = sorted(binaries.kuberay_crds().glob("*.yaml"))
    definitions = (yaml.safe_load(file.read_text()) for file in files)
    definition = next(found for found in definitions if found["metadata"]["name"] == RAY_CLUSTERS)
    api.apply_at(f"{DEFINITIONS}/{RAY_CLUSTERS}", definition)


def waits(api: Kube) -> None:
    """Wait until a job says that it waits for KubeRay, then install that."""
    api.wait(lambda: api.condition("summarise", "Stalled")[:2] == ("True", "KubeRayMissing"))
    assert "install KubeRay" in api.condition("summarise", "Stalled")[2]
    assert api.get("Secret", "summarise-token") is None
    install(api)
    api.wait(lambda: served(api))


def goes_on(api: Kube) -> None:
    """Wait until there is a RayCluster, and the job says what its status says."""
    api.wait(lambda: api.get("RayCluster", "summarise") is not None)
    status = paths.single("RayCluster", api.namespace, "summarise") + "/status"
    api.patch_at(status, {"status": {"conditions": [FAILURE]}})
    api.wait(lambda: api.condition("summarise", "Stalled")[1:] == ("RayClusterFailed", "exceeded quota"))


@pytest.mark.parametrize("watch_nodes", [True, False], ids=["of the cluster", "of a namespace alone"])
def test_a_job_waits_for_kuberay_and_goes_on_with_the_next_start(bare: Path, watch_nodes: bool):
    with kube(bare) as api:
        api.create(job())
        with operating(api, watch_nodes=watch_nodes) as controller:
            waits(api)
            api.wait(lambda: not controller.jobs.phases())
        with operating(api, watch_nodes=watch_nodes):
            goes_on(api)


@pytest.mark.parametrize("watch_nodes", [True, False], ids=["of the cluster", "of a namespace alone"])
def test_jobs_that_are_defined_after_the_start_are_seen_with_the_next_one(bare: Path, watch_nodes: bool):
    with kube(bare) as api:
        definition = custom_resource_definition()
        address = f"{DEFINITIONS}/{definition['metadata']['name']}"
        api.delete_at(address)
        api.wait(lambda: api.get_at(paths.JOB_GROUP) is None)
        with operating(api, watch_nodes=watch_nodes) as controller:
            api.wait(controller.ready.is_set)
            api.apply_at(address, definition)
            api.wait(lambda: stores_jobs(api))
            api.wait(lambda: controller._heads._session.closed)
        with operating(api, watch_nodes=watch_nodes):
            api.create(job())
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "KubeRayMissing")
