"""Why a job does not move, in seconds instead of minutes: an ordered list of small checks, the first one speaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llmbatch.core.job.children.names import cluster_name
from llmbatch.core.job.facts import (
    driver_lives,
    head_pod,
    head_ready,
    present_progress,
    ray_silent_seconds,
    workers,
    works,
)
from llmbatch.core.job.phase import HEAD_NOT_READY
from llmbatch.core.job.snapshot import PodObservation, Snapshot
from llmbatch.core.job.times import since

UNSCHEDULABLE_SECONDS = 5.0
"""A pod that no node takes is a stall after this long: the scheduler's first look takes less."""
UNSERVED_SECONDS = 5.0
"""Writes that the API server cannot carry out are a stall after this long: throttling and restarts take less."""
SILENT_SECONDS = 60.0
"""A driver or a head that should answer and does not is a stall after this long."""
UNPREPARED_SECONDS = 120.0
"""A head without its volumes or its network is a stall after this long: to attach a disk takes less."""
UNREADY_SECONDS = 1800.0
"""A head that has a node and is not ready is a stall after this long, whatever it does: a large image takes minutes."""
BROKEN = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
    }
)
"""Why a container waits when waiting alone does not help."""

_NODES = re.compile(r"^\d+/\d+ nodes are available: ")
_COUNT = re.compile(r"\b\d+ (?=Insufficient|node\(s\)|Preemption|No preemption)")
_POD = re.compile(r'\bpods? "[^"]*"')
_PREEMPTION = re.compile(r"\.? ?(no new claims to deallocate, )?preemption: .*$", re.DOTALL)


class Stall(NamedTuple):
    """Why nothing moves."""

    reason: str
    """One CamelCase word."""
    message: str
    """One sentence, without counts that change from pass to pass."""
    wavers: bool = False
    """Whether the words differ from pass to pass for one and the same cause; the first ones are kept then."""


def stall(snapshot: Snapshot) -> Stall | None:
    """Return the first thing that holds the job up, if any."""
    return _first_of(CHECKS, snapshot)


def pods_stall(snapshot: Snapshot) -> Stall | None:
    """Return what keeps the pods of the RayCluster from working, whatever else holds the job up."""
    return _first_of(POD_CHECKS, snapshot)


def _first_of(checks: Iterable[Callable[[Snapshot], Stall | None]], snapshot: Snapshot) -> Stall | None:
    return next((found for check in checks if (found := check(snapshot)) is not None), None)


def scheduling_message(message: str) -> str:
    """Return the scheduler's message without its counts of nodes, which change with every node that comes or goes."""
    return _COUNT.sub("", _PREEMPTION.sub("", _NODES.sub("", message))).rstrip(". ") or message


def pod_trouble(pod: PodObservation, now: float) -> Stall | None:
    """Return what keeps one pod from becoming ready, if it is more than a matter of time."""
    if pod.waiting_reason in BROKEN:
        text = pod.waiting_message or pod.waiting_reason
        # The kubelet alternates between the attempt and the back-off, and counts the seconds of the latter.
        return Stall("ImageUnavailable" if "Image" in pod.waiting_reason else pod.waiting_reason, text, wavers=True)
    if pod.unschedulable and now - pod.created_at >= UNSCHEDULABLE_SECONDS:
        return Stall("Unschedulable", f"No node takes a {pod.group} pod: {scheduling_message(pod.unschedulable)}")
    return None


def cluster_trouble(snapshot: Snapshot) -> Stall | None:
    """Return what KubeRay cannot do, such as making a pod that a quota forbids."""
    failure = snapshot.cluster.failure if snapshot.cluster else ""
    # Each try is of a pod with another name.
    return Stall("RayClusterFailed", _POD.sub("a pod", failure)) if failure else None


def ripens_in(snapshot: Snapshot) -> float | None:
    """Return the seconds until time alone makes a stall of a pod that no node takes; None where none would be one."""
    waiting = (pod.created_at for pod in snapshot.pods if pod.unschedulable and not pod.terminating)
    left = (UNSCHEDULABLE_SECONDS - (snapshot.now - created) for created in waiting)
    return min((seconds for seconds in left if seconds > 0), default=None)


def _no_kuberay(snapshot: Snapshot) -> Stall | None:
    if snapshot.facts.kuberay_installed:
        return None
    return Stall("KubeRayMissing", "This cluster has no RayCluster of ray.io/v1: install KubeRay 1.6 or later")


def _forbidden(snapshot: Snapshot) -> Stall | None:
    return _first("Forbidden", snapshot.facts.forbidden)


def _rejected(snapshot: Snapshot) -> Stall | None:
    return _first("Rejected", snapshot.facts.rejected)


def _unserved(snapshot: Snapshot) -> Stall | None:
    """Pass on what keeps writes from being done while the API server answers, such as a webhook that is away."""
    if not _past(snapshot.facts.unserved_since, UNSERVED_SECONDS, snapshot.now):
        return None
    # A webhook that comes and goes is silent in one way after the other.
    return next((Stall("ApiServerError", message, wavers=True) for message in snapshot.facts.unserved), None)


def _missing_secret(snapshot: Snapshot) -> Stall | None:
    """Pods that run have read theirs."""
    missing = () if works(snapshot) else snapshot.facts.missing_secrets
    return Stall("SecretMissing", f"Secret {', '.join(sorted(missing))} is not in the namespace") if missing else None


def _foreign_child(snapshot: Snapshot) -> Stall | None:
    cluster = snapshot.cluster
    taken = [f"{child.kind} {child.name}" for child in snapshot.children if not (child.owned or child.deleting)]
    if cluster is not None and not cluster.owned:
        taken.append(f"RayCluster {cluster_name(snapshot.job.name)}")
    return Stall("NameTaken", f"{', '.join(sorted(taken))} belongs to somebody else") if taken else None


def _cluster_failure(snapshot: Snapshot) -> Stall | None:
    return None if works(snapshot) else cluster_trouble(snapshot)


def _head(snapshot: Snapshot) -> Stall | None:
    head = head_pod(snapshot)
    return pod_trouble(head, snapshot.now) if head is not None and not head.ready else None


def _lost_head(snapshot: Snapshot) -> Stall | None:
    """A head that was ready while its driver ran, and is neither back nor replaced, as on a node that is cut off."""
    stored = {condition.type: condition for condition in snapshot.job.status.conditions}
    ready, running = stored.get("ClusterReady"), stored.get("Running")
    if ready is None or running is None or running.status != "True" or head_ready(snapshot):
        return None
    if ready.reason != HEAD_NOT_READY or since(snapshot.now, ready.last_transition_time) < SILENT_SECONDS:
        return None
    return Stall(HEAD_NOT_READY, "The head is not ready any more: its node may be gone, or the head hangs")


def _slow_head(snapshot: Snapshot) -> Stall | None:
    """A head of which neither scheduler nor kubelet says in its status what is wrong, as where a Secret is missing."""
    head = head_pod(snapshot)
    if head is None or head.ready or head.terminating or head.node is None:
        return None
    where = f"see the events of `kubectl -n {snapshot.job.namespace} describe pod {head.name}`"
    if head.phase == "Pending" and _past(head.unprepared_since, UNPREPARED_SECONDS, snapshot.now):
        return Stall(HEAD_NOT_READY, f"The head has a node and lacks a volume or its network there: {where}")
    if _past(head.unready_since, UNREADY_SECONDS, snapshot.now):
        return Stall(HEAD_NOT_READY, f"The head has a node and was not ready for half an hour: {where}")
    return None


def _past(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds


def _workers(snapshot: Snapshot) -> Stall | None:
    """Only when none works: a job with some of its workers is degraded, not stalled."""
    found = workers(snapshot)
    if any(worker.useful for worker in found):
        return None
    troubles = (pod_trouble(worker.pod, snapshot.now) for worker in found if not worker.doomed)
    return next((trouble for trouble in troubles if trouble is not None), None)


def _silent_head(snapshot: Snapshot) -> Stall | None:
    if ray_silent_seconds(snapshot) < SILENT_SECONDS:
        return None
    return Stall("HeadSilent", "The head is ready and its Jobs API does not answer the operator")


def _silent_driver(snapshot: Snapshot) -> Stall | None:
    since = snapshot.runtime.unreachable_since
    if not driver_lives(snapshot) or since is None or snapshot.now - since < SILENT_SECONDS:
        return None
    return Stall("DriverSilent", "The driver runs and its control endpoint does not answer the operator")


def _no_progress(snapshot: Snapshot) -> Stall | None:
    """Pass on the runtime's word, unless a worker is on its way: then waiting alone may well help."""
    progress = present_progress(snapshot)
    if progress is None or not progress.stall_reason or any(worker.coming for worker in workers(snapshot)):
        return None
    return Stall("NoProgress", progress.stall_reason)


def _first(reason: str, messages: Iterable[str]) -> Stall | None:
    return next((Stall(reason, message) for message in sorted(messages)), None)


POD_CHECKS = (_cluster_failure, _head, _lost_head, _slow_head, _workers)
CHECKS: tuple[Callable[[Snapshot], Stall | None], ...] = (
    _no_kuberay,
    _forbidden,
    _rejected,
    _unserved,
    _missing_secret,
    _foreign_child,
    *POD_CHECKS,
    _silent_head,
    _silent_driver,
    _no_progress,
)
"""In order: what the user can mend first."""
