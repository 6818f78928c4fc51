"""Bringing an attempt up and keeping it going: children, cluster, submission, Capacity, workers."""

from __future__ import annotations

from typing import Any

from llmbatch.api.capacity import Capacity, DoomedWorker
from llmbatch.api.job import CapacityStatus, LLMBatchJobSpec
from llmbatch.core.job.children import build_children, build_support
from llmbatch.core.job.children.cluster import pods_fingerprint
from llmbatch.core.job.children.names import submission_id
from llmbatch.core.job.children.pods import CONTROL_PORT, RUN_SPEC_FOLDER, RUN_SPEC_KEY, TOKEN_KEY
from llmbatch.core.job.draft import Draft
from llmbatch.core.job.ending import delete_cluster
from llmbatch.core.job.facts import (
    Worker,
    head_pod,
    head_ready,
    other_live_jobs,
    present_job,
    queue,
    shrinking,
    workers,
)
from llmbatch.core.job.phase import HEAD_NOT_READY, HEAD_READY, QUEUED
from llmbatch.core.job.plan import CreateChild, PatchWorkerGroup, SendCapacity, StopRayJob, SubmitRayJob
from llmbatch.core.job.sizing import Sizing, size_workers
from llmbatch.core.job.snapshot import Snapshot
from llmbatch.core.job.stall import BROKEN, Stall, cluster_trouble, pod_trouble, pods_stall, ripens_in, stall
from llmbatch.core.job.times import rfc3339, unix
from llmbatch.errors import SpecError

STARTING_SECONDS = 2.0
"""How often a head is asked that is ready while no driver runs: Ray's API wakes nobody."""
RUNNING_SECONDS = 10.0
"""How often a running job's Progress is read. A job whose head is not ready is woken by what it waits for."""
BLOCKED_SECONDS = 10.0
"""How often a job is looked at that waits for something nobody tells of, such as a Secret."""
DEGRADED_SECONDS = 60.0
"""A worker that is wanted and not there is a lack after this long; one that cannot come, as soon as that is known."""
BLOCKING = frozenset({"KubeRayMissing", "SecretMissing", "NameTaken"})
"""Stalls before which nothing is created. A RayCluster that is there goes on."""
MENDABLE = BROKEN | {"ImageUnavailable", "Unschedulable", "RayClusterFailed", HEAD_NOT_READY}
"""Stalls that other pods may end: of another image, overlay or node selector."""
CHANGED = "The job was changed since its RayCluster was made: suspend and resume it to apply that"


def run(draft: Draft, spec: LLMBatchJobSpec) -> None:
    """Do what the written-down attempt needs next."""
    held_up = stall(draft.snapshot)
    # Not the first thing that holds the job up: that may be a refusal of the very deletion.
    pods = pods_stall(draft.snapshot)
    outdated = pods is not None and pods.reason in MENDABLE and _outdated(draft.snapshot, spec)
    made_anew = outdated and _untouched(draft.snapshot)
    if held_up is not None and held_up == pods and outdated and not made_anew:
        held_up = Stall(held_up.reason, CHANGED if held_up.wavers else f"{held_up.message}. {CHANGED}")
    if held_up is None:
        draft.clear("Stalled", "Moving", "Nothing holds the job up")
    else:
        draft.set("Stalled", True, held_up.reason, held_up.message, wavers=held_up.wavers)
        draft.because(held_up.message)
    _set_cluster_ready(draft)
    cluster = draft.snapshot.cluster
    stands = cluster is not None and cluster.owned and draft.snapshot.facts.kuberay_installed
    if held_up is not None and held_up.reason in BLOCKING and not stands:
        draft.again_in(BLOCKED_SECONDS)
        return
    if made_anew:
        draft.because("its pods were changed before any of them worked: the RayCluster is made anew")
        delete_cluster(draft)
        return
    sizing = size_workers(draft.snapshot, spec)
    _set_capacity(draft, sizing)
    _create_missing(draft, spec, sizing)
    if cluster is not None and cluster.owned and not cluster.deleting:
        # The runtime first: it may have seconds until a worker goes, and KubeRay has none to make another one in.
        _drive(draft, sizing)
        if not queue(draft.snapshot):
            draft.act(*resized(draft.snapshot, sizing))
    _set_degraded(draft, sizing)
    draft.again_in(_look_again(draft))
    if (soon := ripens_in(draft.snapshot)) is not None:
        draft.again_in(soon)


def expect(draft: Draft, spec: LLMBatchJobSpec) -> None:
    """Say how many workers the first attempt will ask for, in the write that announces it."""
    wanted = {"workers_wanted": size_workers(draft.snapshot, spec).wanted}
    draft.update(capacity=(draft.field("capacity") or CapacityStatus()).model_copy(update=wanted))


def _outdated(snapshot: Snapshot, spec: LLMBatchJobSpec) -> bool:
    """Tell whether the pods of the RayCluster are of other fields than the job has by now."""
    cluster = snapshot.cluster
    if cluster is None or not cluster.owned or cluster.deleting:
        return False
    return cluster.pods_from not in ("", pods_fingerprint(spec))


def _untouched(snapshot: Snapshot) -> bool:
    """Tell whether nothing is lost with the RayCluster: no driver of this attempt began, and no worker is ready."""
    if snapshot.job.status.attempt_started_at is not None or present_job(snapshot) or other_live_jobs(snapshot):
        return False
    if head_ready(snapshot) and not snapshot.ray.reachable:
        return False
    return not any(worker.pod.ready for worker in workers(snapshot))


def _look_again(draft: Draft) -> float:
    facts = draft.snapshot.facts
    if facts.forbidden or facts.rejected:
        return BLOCKED_SECONDS
    starting = head_ready(draft.snapshot) and not draft.is_true("Running")
    return STARTING_SECONDS if starting else RUNNING_SECONDS


def entrypoint(attempt: int) -> str:
    """Return the command line of the driver of an attempt."""
    return (
        f"python -m llmbatch.runtime.serve --run-spec {RUN_SPEC_FOLDER}/{RUN_SPEC_KEY}"
        f" --attempt {attempt} --port {CONTROL_PORT}"
    )


def capacity_for(snapshot: Snapshot, sizing: Sizing | None = None, *, pause: bool = False) -> Capacity:
    """Return the desired state for the runtime. Its sequence is the time in milliseconds: it grows over restarts."""
    going = shrinking(snapshot) if sizing is None else sizing.going
    kill = snapshot.now + snapshot.settings.grace_seconds
    return Capacity(
        sequence=int(snapshot.now * 1000),
        doomed=tuple(
            _doomed(worker, kill) for worker in workers(snapshot) if worker.doomed or worker.pod.name in going
        ),
        gpus_granted=None if sizing is None else sizing.gpus_granted,
        gpus_arriving=0 if sizing is None else sizing.gpus_arriving,
        pause=pause,
    )


def _doomed(worker: Worker, kill: float) -> DoomedWorker:
    """Return what the runtime is told of a worker that goes; one that the operator itself deletes has its grace."""
    pod, notice = worker.pod, worker.notice
    if notice is None or notice.kind == "advisory":
        return DoomedWorker(worker=pod.name, address=pod.address, kind="reclaim", deadline=kill)
    return DoomedWorker(worker=pod.name, address=pod.address, kind=notice.kind, deadline=notice.deadline)


def resized(snapshot: Snapshot, sizing: Sizing) -> list[PatchWorkerGroup]:
    """Return the patches that bring the worker groups to their sizes."""
    cluster = snapshot.cluster
    if cluster is None:
        return []
    return [
        PatchWorkerGroup(
            cluster=cluster.name,
            uid=cluster.uid,
            group=group.name,
            index=group.index,
            from_replicas=group.replicas,
            replicas=size.replicas,
            workers_to_delete=size.delete,
            reason=size.reason,
        )
        for group in cluster.groups
        if (size := sizing.groups.get(group.name)) is not None
        and (size.replicas != group.replicas or set(size.delete) - set(group.workers_to_delete))
    ]


def _create_missing(draft: Draft, spec: LLMBatchJobSpec, sizing: Sizing) -> None:
    snapshot, job = draft.snapshot, draft.snapshot.job
    there = {(child.kind, child.name) for child in snapshot.children if not child.deleting}
    replicas = {name: size.replicas for name, size in sizing.groups.items()}
    try:
        # A RayCluster that is there keeps the RunSpec it was created with.
        wanted = (
            build_children(job, spec, snapshot.settings, replicas)
            if snapshot.cluster is None
            else build_support(job, snapshot.settings)
        )
    except SpecError as error:
        draft.set("Accepted", False, "InvalidSpec", str(error))
        return
    for manifest in wanted:
        if (manifest["kind"], manifest["metadata"]["name"]) not in there:
            draft.act(_creation(manifest))
            draft.because(f"{manifest['kind']} {manifest['metadata']['name']} is missing")


def _creation(manifest: dict[str, Any]) -> CreateChild:
    return CreateChild(manifest=manifest, random_key=TOKEN_KEY if manifest["kind"] == "Secret" else None)


def _drive(draft: Draft, sizing: Sizing) -> None:
    """Get the driver going, or tell it what it may count on."""
    snapshot, stored = draft.snapshot, draft.stored
    attempt, head = stored.attempt, head_pod(snapshot)
    if head is None and draft.is_true("Running"):
        draft.set("Running", False, "HeadLost", "The head's pod is gone")
    if attempt is None or head is None or not head_ready(snapshot) or not snapshot.ray.reachable:
        return
    if leftovers := other_live_jobs(snapshot):
        draft.because("another attempt's driver is stopped")
        draft.act(*(StopRayJob(submission_id=job.submission_id) for job in leftovers))
    present = present_job(snapshot)
    if present is not None:
        if present.state == "RUNNING":
            if stored.attempt_started_at is None:
                # The API server's clock made the head's time: a slower one here would take that head for a later one.
                started = rfc3339(max(snapshot.now, head.created_at))
                draft.update(attempt_started_at=started, retry_at=None)
            draft.set("Running", True, "DriverRunning", f"Attempt {attempt} runs")
            draft.act(SendCapacity(capacity=capacity_for(snapshot, sizing)))
        return
    if leftovers:
        return
    wait = (unix(stored.retry_at) or 0.0) - snapshot.now
    if wait > 0:
        draft.because(f"attempt {attempt} waits out the backoff")
        draft.again_in(wait)
        return
    draft.act(SubmitRayJob(submission_id=submission_id(snapshot.job.uid, attempt), entrypoint=entrypoint(attempt)))


def _set_cluster_ready(draft: Draft) -> None:
    cluster = draft.snapshot.cluster
    if cluster is None:
        draft.set("ClusterReady", False, HEAD_NOT_READY)
    elif cluster.deleting:
        draft.set("ClusterReady", False, "Leaving", "The RayCluster of the attempt before goes first")
    elif cluster.suspended:
        named = f"queue {cluster.queue}" if cluster.queue else "its queue"
        draft.set("ClusterReady", False, QUEUED, f"The RayCluster is suspended until {named} admits it")
    elif head_ready(draft.snapshot):
        draft.set("ClusterReady", True, HEAD_READY)
    else:
        draft.set("ClusterReady", False, HEAD_NOT_READY)


def _set_capacity(draft: Draft, sizing: Sizing) -> None:
    """Say how many workers are wanted, and remember what stands in for spot before it is acted on."""
    capacity, mix = draft.field("capacity") or CapacityStatus(), sizing.mix
    update: dict[str, Any] = {"workers_wanted": sizing.wanted}
    # A queue admitted the groups as they are: nothing can stand in for spot there.
    if mix.event and not queue(draft.snapshot):
        since = None if mix.fallback.since is None else rfc3339(mix.fallback.since)
        update |= {"fallback_workers": mix.fallback.workers, "fallback_since": since}
        draft.tell("Warning" if mix.fallback.workers else "Normal", mix.event, mix.reason)
        draft.again_in(0.1)
    draft.update(capacity=capacity.model_copy(update=update))
    if mix.again_in is not None:
        draft.again_in(mix.again_in)
    for reason in sizing.reasons:
        draft.because(reason)


def _set_degraded(draft: Draft, sizing: Sizing) -> None:
    """Say when fewer workers run than are wanted for longer than a worker takes to come."""
    snapshot = draft.snapshot
    found = workers(snapshot)
    coming = [worker.pod for worker in found if not worker.pod.ready and not worker.doomed]
    troubles = (*(pod_trouble(pod, snapshot.now) for pod in coming), cluster_trouble(snapshot))
    trouble = next((trouble for trouble in troubles if trouble is not None), None)
    late = any(snapshot.now - pod.created_at >= DEGRADED_SECONDS for pod in coming)
    lacking = sum(worker.useful for worker in found) < sizing.wanted
    if not draft.is_true("Running") or not lacking or not (late or trouble):
        draft.clear("Degraded", "AsWanted")
        return
    if trouble is None:
        draft.set("Degraded", True, "WorkersStarting", "Fewer workers run than are wanted")
    else:
        draft.set("Degraded", True, trouble.reason, trouble.message, wavers=trouble.wavers)
