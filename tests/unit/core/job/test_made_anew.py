"""A RayCluster whose pods cannot come is made anew once the job's image, overlay or node selectors are changed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from controllerkit import (
    NOW,
    SETTINGS,
    cluster,
    condition,
    job,
    pod,
    ray_job,
    running_snapshot,
    running_status,
    spec,
    status,
)
from llmbatch.core.job.children.cluster import pods_fingerprint
from llmbatch.core.job.decide import decide
from llmbatch.core.job.phase import HEAD_NOT_READY
from llmbatch.core.job.plan import DeleteRayCluster
from llmbatch.core.job.snapshot import ClusterFacts, RayApiObservation, RuntimeObservation, Snapshot

PENDING: dict[str, Any] = {"phase": "Pending", "ready": False}
NO_IMAGE = pod("head", "head", **PENDING, waiting_reason="ImagePullBackOff")
STARTING = status(
    condition("ClusterReady", holds=False, reason=HEAD_NOT_READY), attempt=1, ray_cluster_name="summarise"
)


def changed(**fields: Any) -> Snapshot:
    """Return a job whose head cannot start, and whose image was changed since."""
    known = {
        "job": job(status=STARTING, spec=spec(image="registry.example/right:1")),
        "cluster": cluster(pods_from=pods_fingerprint(spec(image="registry.example/typo:1"))),
        "pods": (NO_IMAGE,),
        "ray": RayApiObservation(),
        "runtime": RuntimeObservation(),
        **fields,
    }
    return running_snapshot(**known)


def made_anew(snapshot: Snapshot) -> bool:
    return any(isinstance(action, DeleteRayCluster) for action in decide(snapshot).actions)


@pytest.mark.parametrize(
    "head",
    [
        NO_IMAGE,
        pod("head", "head", **PENDING, node=None, unschedulable="0/5 nodes are available: 5 x"),
        pod("head", "head", **PENDING, waiting_reason="CreateContainerConfigError"),
        pod("head", "head", ready=False, waiting_reason="CrashLoopBackOff"),
        pod("head", "head", **PENDING, unprepared_since=NOW - 600),
    ],
    ids=lambda head: head.waiting_reason or ("Unschedulable" if head.unschedulable else "volume"),
)
def test_a_cluster_whose_head_cannot_start_is_made_anew(head: Any):
    assert made_anew(changed(pods=(head,)))


def test_a_cluster_of_which_a_policy_allows_no_pod_is_made_anew():
    failure = 'pods "summarise-head-x" is forbidden: violates PodSecurity'
    assert made_anew(changed(cluster=changed().cluster.model_copy(update={"failure": failure}), pods=()))


def test_a_deletion_that_is_refused_is_told_and_still_wanted():
    refused = changed(facts=ClusterFacts(rejected=("a policy keeps RayClusters",)))
    assert made_anew(refused)
    [stalled] = [item for item in decide(refused).status.conditions if item.type == "Stalled"]
    assert (stalled.status, stalled.reason) == ("True", "Rejected")


@pytest.mark.parametrize(
    "fields",
    [
        {"cluster": cluster()},
        {"cluster": cluster(pods_from=pods_fingerprint(spec(image="registry.example/right:1")))},
        {"cluster": cluster(pods_from="another", deleting=True)},
        {"cluster": cluster(pods_from="another", owned=False)},
        {"pods": (pod("head", "head", **PENDING, waiting_reason="ContainerCreating"),)},
        {"job": job(status=running_status(), spec=spec(image="registry.example/right:1"))},
        {"pods": (NO_IMAGE, pod("w0"))},
        {
            "pods": (pod("head", "head"), pod("w0", **PENDING, waiting_reason="ImagePullBackOff")),
            "ray": RayApiObservation(reachable=True, jobs=(ray_job("PENDING"),)),
        },
        {
            "pods": (pod("head", "head"), pod("w0", **PENDING, waiting_reason="ImagePullBackOff")),
            "ray": RayApiObservation(unreachable_since=NOW - 1),
        },
    ],
    ids=[
        "made by an earlier version",
        "unchanged",
        "going already",
        "somebody else's",
        "starting",
        "a driver began",
        "a worker is there",
        "a driver begins",
        "a driver may begin: the head does not say",
    ],
)
def test_any_other_cluster_is_left_alone(fields: dict[str, Any]):
    assert not made_anew(changed(**fields))


CHANGES: dict[str, dict[str, Any]] = {
    "image": {"image": "registry.example/other:1"},
    "overlay": {"podOverlay": {"spec": {"priorityClassName": "low"}}},
    "spot selector": {"capacity": {"spot": {"nodeSelector": {"a": "b"}}}},
    "spot tolerations": {"capacity": {"spot": {"tolerations": [{"key": "a"}]}}},
    "on-demand selector": {"capacity": {"onDemand": {"nodeSelector": {"a": "b"}}}},
    "on-demand tolerations": {"capacity": {"onDemand": {"tolerations": [{"key": "a"}]}}},
}


def test_each_field_that_shapes_the_pods_counts_and_no_other_does():
    plain = spec(capacity=None)
    stand_for = {name: pods_fingerprint(spec(**{"capacity": None, **change})) for name, change in CHANGES.items()}
    assert len({pods_fingerprint(plain), *stand_for.values()}) == len(CHANGES) + 1
    others = spec(capacity={"spot": {"max": 9}, "onDemand": {"max": 9}}, suspend=True, activeDeadlineSeconds=60)
    assert pods_fingerprint(others) == pods_fingerprint(plain)


def test_a_date_that_yaml_made_of_a_value_is_taken():
    dated = {"spec": {"containers": [{"name": "ray", "env": [{"name": "SINCE", "value": date(2026, 1, 1)}]}]}}
    assert pods_fingerprint(spec(podOverlay=dated)) != pods_fingerprint(spec())


def test_an_upgrade_of_the_operator_replaces_no_cluster():
    upgraded = SETTINGS.model_copy(update={"image": "registry.example/llmbatch:2", "head_memory": "16Gi"})
    today = cluster(pods_from=pods_fingerprint(spec(image="registry.example/right:1")))
    assert not made_anew(changed(cluster=today, settings=upgraded))
