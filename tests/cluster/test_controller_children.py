"""What the controller makes of a job on a real API server with a real KubeRay."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from llmbatch.api.base import KIND
from llmbatch.cluster import observe
from operatorkit import Kube, job, kube, operating

pytestmark = pytest.mark.cluster
CHILDREN = {
    "RayCluster": "summarise",
    "ServiceAccount": "summarise-ray",
    "Secret": "summarise-token",
    "NetworkPolicy": "summarise-ray",
    "PodDisruptionBudget": "summarise-head",
}


def children(kube: Kube) -> dict[str, str]:
    """Return the uid of each child that is there."""
    found = {kind: kube.get(kind, name) for kind, name in CHILDREN.items()}
    run_specs = [item for item in kube.items("ConfigMap") if item["metadata"]["name"].startswith("summarise-run-")]
    found["ConfigMap"] = run_specs[0] if run_specs else None
    return {kind: child["metadata"]["uid"] for kind, child in found.items() if child is not None}


def test_a_job_gets_its_children_and_loses_them_with_its_deletion(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            made = api.wait(lambda: children(api) if len(children(api)) == 6 else None)
            uid = api.job("summarise")["metadata"]["uid"]
            for kind, name in CHILDREN.items():
                [owner] = api.get(kind, name)["metadata"]["ownerReferences"]
                assert (owner["uid"], owner["controller"]) == (uid, True), kind
            api.wait(lambda: len(api.items("Pod")) == 3)
            api.delete(KIND, "summarise")
            api.wait(lambda: api.get(KIND, "summarise") is None and not children(api))
        assert len(made) == 6


def test_nothing_but_the_status_of_the_users_object_is_written(kubeconfig: Path):
    with kube(kubeconfig) as api:
        before = api.create(job())
        with operating(api):
            api.wait(lambda: (api.job("summarise").get("status") or {}).get("attempt") == 1)
            api.wait(lambda: len(children(api)) == 6)
            after = api.job("summarise")
        assert after["spec"] == before["spec"]
        assert set(after["metadata"]) - {"managedFields"} == set(before["metadata"]) - {"managedFields"}
        assert after["status"]["observedGeneration"] == 1


def test_a_restart_creates_and_deletes_nothing(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            before = api.wait(lambda: children(api) if len(children(api)) == 6 else None)
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
        with operating(api) as operator:
            api.wait(lambda: operator.metrics.passes._sum.get() > 0)
            assert operator.writes == 0
            assert children(api) == before


def test_a_cluster_whose_pods_cannot_come_is_made_anew_once_the_job_is_mended(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
            before = api.get("RayCluster", "summarise")["metadata"]["uid"]
            api.patch(KIND, "summarise", {"spec": {"capacity": {"onDemand": {"nodeSelector": {"pool": "mended"}}}}})

            api.wait(lambda: {pod["spec"]["nodeSelector"].get("pool") for pod in heads(api)} == {"mended"})
            assert api.get("RayCluster", "summarise")["metadata"]["uid"] != before
            api.wait(lambda: api.condition("summarise", "Stalled")[:2] == ("True", "Unschedulable"))
            assert api.job("summarise")["status"]["attempt"] == 1


def heads(api: Kube) -> list[dict[str, Any]]:
    return [pod for pod in api.items("Pod") if pod["metadata"]["labels"].get("ray.io/node-type") == "head"]


def test_no_log_and_no_status_holds_the_token(kubeconfig: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "llmbatch")
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            secret = api.wait(lambda: api.get("Secret", "summarise-token"))
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
            token = secret["data"]["auth_token"]
            assert len(token) > 40
            assert token not in caplog.text
            assert token not in json.dumps(api.job("summarise"))


def test_a_child_that_somebody_deletes_comes_back(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(observe, "CHILDREN_SECONDS", 1.0)
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            before = api.wait(lambda: children(api) if len(children(api)) == 6 else None)
        api.delete("NetworkPolicy", "summarise-ray")
        with operating(api):
            api.wait(lambda: children(api).get("NetworkPolicy", before["NetworkPolicy"]) != before["NetworkPolicy"])


def test_a_job_that_comes_again_under_its_name_is_another_job(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            first = api.wait(lambda: api.get("RayCluster", "summarise"))
            api.delete(KIND, "summarise")
            api.wait(lambda: api.get(KIND, "summarise") is None)
            api.create(job())
            uid = api.job("summarise")["metadata"]["uid"]

            def mine() -> bool:
                cluster = api.get("RayCluster", "summarise")
                return cluster is not None and cluster["metadata"]["ownerReferences"][0]["uid"] == uid

            api.wait(mine)
            assert api.get("RayCluster", "summarise")["metadata"]["uid"] != first["metadata"]["uid"]
