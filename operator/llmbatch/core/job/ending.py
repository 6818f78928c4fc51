"""The ways an attempt and a job end."""

from __future__ import annotations

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.children.names import cluster_name
from llmbatch.core.job.draft import Draft
from llmbatch.core.job.facts import LIVE, queue, workers
from llmbatch.core.job.numbers import resting
from llmbatch.core.job.outcome import Outcome, backoff_seconds
from llmbatch.core.job.phase import HEAD_NOT_READY
from llmbatch.core.job.plan import DeleteRayCluster, PatchWorkerGroup, StopRayJob
from llmbatch.core.job.snapshot import RayClusterObservation, Snapshot
from llmbatch.core.job.times import rfc3339, since

LEAVING_SECONDS = 2.0
"""How often a cluster that goes is looked at."""


def finished(draft: Draft) -> bool:
    """Tell whether the stored status says that the job ended. It never runs again then."""
    return any(
        condition.type in ("Complete", "Failed") and condition.status == "True" for condition in draft.stored.conditions
    )


def complete(draft: Draft, end: Outcome) -> None:
    """End the job well."""
    _end(draft, "Complete", end.reason)
    draft.set("Complete", True, end.reason, end.message)


def fail(draft: Draft, reason: str, message: str) -> None:
    """End the job badly; what is committed stays."""
    _end(draft, "Failed", reason)
    draft.set("Failed", True, reason, message)


def next_attempt(draft: Draft, spec: LLMBatchJobSpec, end: Outcome) -> None:
    """Write down the attempt that goes on where this one ended, or end the job when it failed too often."""
    failed = end.kind in ("failed", "hung")
    failures = draft.stored.failures + failed
    if failures > spec.failure_policy.backoff_limit:
        draft.update(failures=failures)
        fail(
            draft, "BackoffLimitExceeded", f"{failures} attempts failed, the last one with {end.reason}: {end.message}"
        )
        return
    if end.kind == "hung":
        delete_cluster(draft)
    if end.kind in ("failed", "hung"):
        wait = backoff_seconds(failures)
        draft.update(failures=failures, retry_at=rfc3339(draft.snapshot.now + wait))
        draft.tell("Warning", "AttemptFailed", f"{end.reason}: {end.message}")
    elif end.kind == "interrupted":
        draft.update(interruptions=draft.stored.interruptions + 1, retry_at=None)
        draft.tell("Warning", "AttemptInterrupted", f"{end.reason}: {end.message}")
    intend(draft, (draft.stored.attempt or 0) + 1)
    draft.set("Running", False, end.reason, end.message)


def intend(draft: Draft, attempt: int) -> None:
    """Write down an attempt and the name of its RayCluster. Nothing is done for it before that is stored."""
    name = cluster_name(draft.snapshot.job.name)
    draft.update(attempt=attempt, attempt_started_at=None, ray_cluster_name=name, pausing_since=None)
    _without_driver(draft)
    if draft.condition("ClusterReady") is None:
        draft.set("ClusterReady", False, HEAD_NOT_READY)
    draft.because(f"attempt {attempt} is written down before anything is done for it")
    draft.again_in(0.1)


def clean_up(draft: Draft) -> None:
    """Release what a finished job still holds: its workers at once, its head after the time to live.

    In a queue the head goes at once too: it holds quota that others wait for, and Kueue evicts what is resized.
    """
    snapshot = draft.snapshot
    cluster, spec = snapshot.cluster, snapshot.job.spec
    draft.because("the job has ended and never runs again")
    if cluster is None or not cluster.owned:
        return
    if cluster.deleting:
        draft.again_in(LEAVING_SECONDS)
        return
    lifetime = 0 if queue(snapshot) else (spec.ttl_seconds_after_finished if spec else None) or 0
    left = lifetime - since(snapshot.now, draft.stored.finished_at)
    if left <= 0:
        delete_cluster(draft)
        return
    draft.again_in(left)
    draft.act(*(StopRayJob(submission_id=job.submission_id) for job in snapshot.ray.jobs if job.state in LIVE))
    draft.act(*_release(cluster, draft.snapshot))


def delete_cluster(draft: Draft) -> None:
    """Delete the RayCluster if it is there and this job's."""
    cluster = draft.snapshot.cluster
    if cluster is not None and cluster.owned and not cluster.deleting:
        draft.act(DeleteRayCluster(name=cluster.name, uid=cluster.uid))
        draft.again_in(LEAVING_SECONDS)


def at_rest(draft: Draft, reason: str) -> None:
    """Set what holds while no driver and no cluster is wanted."""
    draft.set("Running", False, reason)
    draft.set("ClusterReady", False, reason)
    draft.clear("Degraded", reason)
    _without_driver(draft)
    capacity = draft.field("capacity")
    if capacity is not None:
        nothing = {"workers_wanted": 0, "fallback_workers": 0, "fallback_since": None}
        draft.update(capacity=capacity.model_copy(update=nothing))


def _without_driver(draft: Draft) -> None:
    """Take back replicas, rates and the time left: they were those of a driver that runs no more."""
    draft.update(stages=resting(draft.field("stages")))
    rows = draft.field("progress")
    if rows is not None:
        draft.update(progress=rows.model_copy(update={"estimated_remaining_seconds": None}))


def _end(draft: Draft, word: str, reason: str) -> None:
    draft.because(f"{word}: {reason}")
    draft.update(
        finished_at=rfc3339(draft.snapshot.now), retry_at=None, pausing_since=None, attempt=draft.stored.attempt
    )
    at_rest(draft, word)
    draft.clear("Stalled", word)
    draft.clear("Suspended", word)
    capacity = draft.field("capacity")
    if capacity is not None:
        # They go in the next pass: one write says all of the end.
        draft.update(capacity=capacity.model_copy(update={"workers_ready": 0, "spot_ready": 0, "gpus": 0}))
    draft.again_in(0.1)


def _release(cluster: RayClusterObservation, snapshot: Snapshot) -> list[PatchWorkerGroup]:
    found = workers(snapshot)
    return [
        PatchWorkerGroup(
            cluster=cluster.name,
            uid=cluster.uid,
            group=group.name,
            index=group.index,
            from_replicas=group.replicas,
            replicas=0,
            workers_to_delete=tuple(worker.pod.name for worker in found if worker.pod.group == group.name),
            reason="the job has ended",
        )
        for group in cluster.groups
        if group.replicas > 0
    ]
