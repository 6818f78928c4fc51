"""What a Snapshot keeps of the API server's objects."""

from typing import Any

import pytest

from llmbatch.cluster.projections import (
    ClusterPod,
    child_of,
    controller_of,
    job_of,
    node_of,
    of_job,
    pod_of,
    ray_cluster_of,
    status_of,
)
from llmbatch.core.job.snapshot import WorkerGroupObservation
from llmbatch.core.preemption.classify import Classifier
from llmbatch.errors import InternalError

SIGNS = Classifier()


def meta(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-01-31T12:00:00Z",
        **fields,
    }


def pod(labels: dict[str, str] | None = None, status: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    labels = labels or {"ray.io/node-type": "worker", "llmbatch.dev/capacity": "spot"}
    owner = {"uid": "cluster-1", "controller": True}
    spec = {"nodeName": "n1", "containers": [{"name": "ray", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}
    metadata = meta("w0", labels=labels, ownerReferences=[{"uid": "other"}, owner], **fields)
    return {"metadata": metadata, "spec": spec, "status": status or {}}


def seen_of(body: dict[str, Any]) -> ClusterPod:
    seen = pod_of(body, "nvidia.com/gpu", SIGNS.pod)
    assert seen is not None
    return seen


@pytest.mark.parametrize("labels", [{"app": "x"}, {"ray.io/node-type": "worker", "llmbatch.dev/capacity": "other"}])
def test_a_pod_that_is_no_head_and_of_no_group_is_none_of_the_job(labels: dict[str, str]):
    assert pod_of(pod(labels), "nvidia.com/gpu", SIGNS.pod) is None


def test_a_pod_belongs_to_the_cluster_that_controls_it():
    seen = seen_of(pod())
    assert (seen.cluster_uid, seen.pod.group, seen.pod.gpus, seen.pod.node) == ("cluster-1", "spot", 2, "n1")
    assert seen.pod.notice is None


def test_the_head_is_told_by_rays_label():
    labels = {"ray.io/node-type": "head"}
    assert seen_of(pod(labels)).pod.group == "head"


def test_a_pod_that_is_deleted_is_on_notice_until_its_kill():
    deleted = pod(deletionTimestamp="2026-01-31T12:01:00Z", deletionGracePeriodSeconds=25)
    seen = seen_of(deleted).pod
    assert seen.terminating
    assert seen.notice is not None
    assert seen.notice.deadline == seen.created_at + 60


def test_why_a_pod_waits_is_kept_in_the_words_of_scheduler_and_kubelet():
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    waiting = {"name": "ray", "restartCount": 3, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}
    status = {"phase": "Pending", "conditions": [unscheduled], "containerStatuses": [waiting]}
    seen = seen_of(pod(status=status)).pod
    assert (seen.unschedulable, seen.waiting_reason, seen.waiting_message) == ("0/3 nodes", "ImagePullBackOff", "no")
    assert seen.restarts == 3


def test_since_when_a_head_lacks_volumes_and_is_not_ready_is_kept():
    def condition(kind: str, status: str) -> dict[str, str]:
        return {"type": kind, "status": status, "lastTransitionTime": "2026-01-31T12:00:05Z"}

    conditions = [condition("PodReadyToStartContainers", "False"), condition("Ready", "False")]
    head, worker = ({"ray.io/node-type": "head"}, {"llmbatch.dev/capacity": "spot"})
    seen = seen_of(pod(head, status={"conditions": conditions})).pod
    assert (seen.unprepared_since, seen.unready_since) == (seen.created_at + 5, seen.created_at + 5)
    seen = seen_of(pod(worker, status={"conditions": conditions})).pod
    assert (seen.unprepared_since, seen.unready_since) == (None, seen.created_at + 5)
    conditions = [condition("PodReadyToStartContainers", "True"), condition("Ready", "True")]
    seen = seen_of(pod(head, status={"conditions": conditions})).pod
    assert (seen.unprepared_since, seen.unready_since) == (None, None)


def test_a_cluster_keeps_its_groups_in_order_and_who_was_told_to_go():
    groups = [
        {"groupName": "spot", "replicas": 2, "scaleStrategy": {"workersToDelete": ["w1"]}},
        {"groupName": "on-demand"},
    ]
    seen = ray_cluster_of({"metadata": meta("summarise"), "spec": {"workerGroupSpecs": groups}})
    assert seen.groups == (
        WorkerGroupObservation(name="spot", index=0, replicas=2, workers_to_delete=("w1",)),
        WorkerGroupObservation(name="on-demand", index=1),
    )


def test_a_cluster_tells_what_its_pods_were_made_from():
    made = ray_cluster_of({"metadata": meta("summarise", annotations={"llmbatch.dev/pods-from": "0a1b2c3d"})})
    assert (made.pods_from, ray_cluster_of({"metadata": meta("summarise")}).pods_from) == ("0a1b2c3d", "")


@pytest.mark.parametrize(
    ("owner", "owned", "goes"),
    [
        ({"kind": "LLMBatchJob", "uid": "job-1"}, True, False),
        ({"kind": "LLMBatchJob", "uid": "an-earlier-job"}, False, True),
        ({"kind": "RayJob", "uid": "another"}, False, False),
    ],
    ids=["its own", "an earlier job's", "somebody else's"],
)
def test_what_bears_a_childs_name_is_its_own_or_goes_or_is_in_the_way(owner: dict[str, str], owned: bool, goes: bool):
    body = {"metadata": meta("summarise", ownerReferences=[{**owner, "controller": True}])}
    cluster = of_job(ray_cluster_of(body), "job-1")
    assert (cluster is not None and cluster.owned, cluster is None) == (owned, goes)
    child = child_of("Secret", body, "job-1")
    assert (child.owned, child.deleting) == (owned, goes)


GONE = 'FailedDeleteWorkerPod\npods "summarise-spot-worker-f5z8b" not found'


@pytest.mark.parametrize(
    ("conditions", "failure", "suspended"),
    [
        ([], "", False),
        ([{"type": "ReplicaFailure", "status": "True", "message": "quota"}], "quota", False),
        ([{"type": "ReplicaFailure", "status": "False", "message": "quota"}], "", False),
        ([{"type": "ReplicaFailure", "status": "True", "message": GONE}], "", False),
        ([{"type": "RayClusterSuspended", "status": "True"}], "", True),
    ],
)
def test_what_kuberay_says_of_a_cluster(conditions: list[dict[str, str]], failure: str, suspended: bool):
    seen = ray_cluster_of({"metadata": meta("summarise"), "status": {"conditions": conditions}})
    assert (seen.failure, seen.suspended) == (failure, suspended)


def test_a_taint_on_a_node_is_a_notice():
    taint = {"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"}
    seen = node_of({"metadata": {"name": "n1"}, "spec": {"taints": [taint]}}, SIGNS.node)
    assert seen.notice is not None
    assert seen.notice.kind == "reclaim"


def test_an_invalid_spec_is_told_by_field_and_value():
    seen = job_of({"metadata": meta("summarise"), "spec": {"input": {"uri": "x", "format": "xml"}}})
    assert seen.spec is None
    assert seen.spec_error.startswith("spec.input.format: 'xml'")


def test_a_status_of_a_later_version_keeps_what_is_known():
    condition = {"type": "Complete", "status": "True", "reason": "X", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    seen = status_of({"conditions": [condition], "attempt": 3, "novelty": 1})
    assert (seen.attempt, seen.conditions[0].type) == (3, "Complete")


def test_a_status_that_cannot_be_read_is_left_alone():
    with pytest.raises(InternalError, match="status cannot be read"):
        status_of({"attempt": "three"})


def test_an_object_without_a_controller_has_none():
    assert controller_of({"metadata": meta("x", ownerReferences=[{"uid": "other"}])}) is None
