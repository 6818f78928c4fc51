"""From the API server's objects to what a Snapshot holds of them: small, typed, nothing else kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from llmbatch.api.base import KIND
from llmbatch.api.job import LLMBatchJobSpec, LLMBatchJobStatus
from llmbatch.core.job.children.names import (
    CAPACITY_LABEL,
    PODS_FROM_ANNOTATION,
    QUEUE_LABEL,
    RAY_CLUSTER_LABEL,
    RAY_NODE_TYPE_LABEL,
)
from llmbatch.core.job.children.overlay import RAY_CONTAINER
from llmbatch.core.job.snapshot import (
    HEAD_GROUP,
    ON_DEMAND_GROUP,
    SPOT_GROUP,
    ChildObservation,
    JobObservation,
    NodeObservation,
    Notice,
    PodObservation,
    RayClusterObservation,
    WorkerGroupObservation,
)
from llmbatch.core.job.times import unix
from llmbatch.errors import InternalError

Body = Mapping[str, Any]
Classify = Callable[[Body], Notice | None]
"""From a Node or Pod to the strongest signal on it."""
PREPARED = "PodReadyToStartContainers"
"""Condition of a pod whose volumes and network are there (KEP-3085, on by default since Kubernetes 1.29)."""


class ClusterPod(NamedTuple):
    """A pod and the RayCluster it belongs to."""

    cluster_uid: str
    """uid of the RayCluster that controls it: a namesake that was replaced has another."""
    pod: PodObservation
    """The pod."""


def job_of(body: Body) -> JobObservation:
    """Return what there is to know of a job.

    Raises:
        InternalError: the stored status is not one this operator can read; it is left alone then.
    """
    metadata = body["metadata"]
    spec, spec_error = _spec_of(body.get("spec") or {})
    return JobObservation(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        labels=dict(metadata.get("labels") or {}),
        created_at=unix(metadata.get("creationTimestamp")) or 0.0,
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        spec_error=spec_error,
        status=status_of(body.get("status") or {}),
    )


def status_of(status: Body) -> LLMBatchJobStatus:
    """Return a stored status. Fields of a later version are left out; the next write drops them.

    Raises:
        InternalError: it is not one this operator can read.
    """
    try:
        return LLMBatchJobStatus.from_wire(status)
    except ValidationError as error:
        raise InternalError(f"status cannot be read: {error}") from error


def ray_cluster_of(body: Body) -> RayClusterObservation:
    """Return what there is to know of a RayCluster; whether it is a job's own says `of_job`."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    text = _replica_failure(conditions.get("ReplicaFailure", {}))
    if not text and status.get("state") == "failed":
        text = status.get("reason", "")
    return RayClusterObservation(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        owner=_owning_job(body),
        deleting="deletionTimestamp" in metadata,
        suspended=bool(spec.get("suspend")) or conditions.get("RayClusterSuspended", {}).get("status") == "True",
        queue=(metadata.get("labels") or {}).get(QUEUE_LABEL, ""),
        pods_from=(metadata.get("annotations") or {}).get(PODS_FROM_ANNOTATION, ""),
        created_at=unix(metadata.get("creationTimestamp")) or 0.0,
        head_ready=conditions.get("HeadPodReady", {}).get("status") == "True",
        failure=text,
        groups=tuple(_group(index, group) for index, group in enumerate(spec.get("workerGroupSpecs") or ())),
    )


def of_job(cluster: RayClusterObservation, job_uid: str) -> RayClusterObservation | None:
    """Return a RayCluster as it is to a job; None for that of an earlier job of the name, which goes with that one."""
    if cluster.owner == job_uid:
        return cluster
    return None if cluster.owner else cluster.model_copy(update={"owned": False})


def _replica_failure(condition: Body) -> str:
    text: str = condition.get("message", "") if condition.get("status") == "True" else ""
    # A pod that KubeRay was to delete and that went by itself, with its node: the next pass of KubeRay finds it so.
    gone = text.startswith("FailedDelete") and text.rstrip().endswith("not found")
    return "" if gone else text


def pod_of(body: Body, gpu_resource: str, classify: Classify) -> ClusterPod | None:
    """Return what there is to know of a pod of a RayCluster; None of a pod that is no head and of no worker group.

    Anybody may give a pod the label of a job.
    """
    metadata, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    waiting = _waiting(status)
    group = _group_of_pod(metadata.get("labels") or {})
    if group is None:
        return None
    pod = PodObservation(
        name=metadata["name"],
        uid=metadata["uid"],
        group=group,
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        unready_since=_false_since(conditions.get("Ready", {})),
        # A worker's would wake its job once more as it starts.
        unprepared_since=_false_since(conditions.get(PREPARED, {})) if group == HEAD_GROUP else None,
        created_at=unix(metadata.get("creationTimestamp")) or 0.0,
        terminating="deletionTimestamp" in metadata,
        node=spec.get("nodeName"),
        address=status.get("podIP"),
        gpus=_gpus(spec, gpu_resource),
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        restarts=_restarts(status),
        notice=classify(body),
    )
    return ClusterPod(controller_of(body) or "", pod)


def cluster_of_pod(body: Body) -> str:
    """Return the name of the RayCluster that a pod belongs to."""
    name: str = (body["metadata"].get("labels") or {}).get(RAY_CLUSTER_LABEL, "")
    return name


def node_of(body: Body, classify: Classify) -> NodeObservation:
    """Return what there is to know of a node."""
    conditions = {condition["type"]: condition for condition in (body.get("status") or {}).get("conditions") or ()}
    return NodeObservation(
        name=body["metadata"]["name"],
        ready=conditions.get("Ready", {}).get("status") == "True",
        notice=classify(body),
    )


def child_of(kind: str, body: Body, job_uid: str) -> ChildObservation:
    """Return what there is to know of an object that bears the name of a child.

    One of an earlier job of the same name goes by garbage collection, if it does not go yet.
    """
    metadata, owner = body["metadata"], _owning_job(body)
    return ChildObservation(
        kind=kind,
        name=metadata["name"],
        owned=owner == job_uid,
        deleting="deletionTimestamp" in metadata or owner not in ("", job_uid),
    )


def controller_of(body: Body) -> str | None:
    """Return the uid of the object's controller."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _owning_job(body: Body) -> str:
    """Return the uid of the LLMBatchJob that controls an object, blank where none does."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller") and owner["kind"] == KIND), "")


def _spec_of(spec: Body) -> tuple[LLMBatchJobSpec | None, str]:
    try:
        return LLMBatchJobSpec.model_validate(spec), ""
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        value = first["input"] if isinstance(first["input"], str | int | float | bool | None) else "..."
        return None, f"{field}: {value!r}: {first['msg'].removeprefix('Value error, ')}"


def _group(index: int, group: Body) -> WorkerGroupObservation:
    return WorkerGroupObservation(
        name=group["groupName"],
        index=index,
        replicas=group.get("replicas") or 0,
        workers_to_delete=tuple((group.get("scaleStrategy") or {}).get("workersToDelete") or ()),
    )


def _group_of_pod(labels: Mapping[str, str]) -> str | None:
    if labels.get(RAY_NODE_TYPE_LABEL) == HEAD_GROUP:
        return HEAD_GROUP
    group = labels.get(CAPACITY_LABEL)
    return group if group in (SPOT_GROUP, ON_DEMAND_GROUP) else None


def _gpus(spec: Body, resource: str) -> int:
    containers = spec.get("containers") or ()
    limits = ((container.get("resources") or {}).get("limits") or {} for container in containers)
    return sum(int(limit.get(resource, 0)) for limit in limits)


def _false_since(condition: Body) -> float | None:
    return unix(condition.get("lastTransitionTime")) if condition.get("status") == "False" else None


def _waiting(status: Body) -> Body:
    """Return the state of the first container that waits, init containers first: they hold up the rest."""
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    states = ((container.get("state") or {}).get("waiting") for container in containers)
    return next((state for state in states if state), {})


def _restarts(status: Body) -> int:
    containers = status.get("containerStatuses") or ()
    return next((item.get("restartCount", 0) for item in containers if item["name"] == RAY_CONTAINER), 0)
