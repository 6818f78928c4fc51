"""From how many workers there should be to what KubeRay is told: sizes that count the leaving, and pods by name.

KubeRay 1.6 counts every pod of a group, terminating ones too, except those named in `workersToDelete`; and where it
has too many it takes any. So a worker on notice is made up for by a larger size while it still runs, one that
terminates is named, and whatever is to shrink is named as well. A pod that KubeRay has made and that is not seen yet
cannot be named: the group shrinks by it once it is. Nor is one named that may be gone before KubeRay reads its name:
KubeRay makes another one for it, and that one is named. One that was asked to leave and that nobody takes, as on a
node that is cordoned and left so, is named once its place is filled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from llmbatch.api.job import CapacityStatus, LLMBatchJobSpec
from llmbatch.core.capacity.forecast import Forecast
from llmbatch.core.capacity.policy import Fallback, Fleet, Loss, Mix, Situation, plan_capacity
from llmbatch.core.job.facts import Worker, present_progress, shrinking, workers
from llmbatch.core.job.snapshot import ON_DEMAND_GROUP, SPOT_GROUP, Snapshot
from llmbatch.core.job.times import since, unix

WARM_UP_SECONDS = 300.0
"""An attempt younger than this has no rate to plan by: its models load."""

NAMING_SECONDS = 3.0
"""A worker that terminates is named while it lasts this much longer: a name takes that long to reach a busy KubeRay."""

LINGERING_SECONDS = 300.0
"""A worker that was asked to leave is named after this long: drains have evicted it, and most batches have ended."""


class GroupSize(NamedTuple):
    """What KubeRay is told of one worker group."""

    replicas: int
    """Pods it is to count: those that stay and those on notice that still run."""
    delete: tuple[str, ...] = ()
    """Pods that go, and pods that are going already."""
    reason: str = ""
    """Why, in words."""


class Sizing(NamedTuple):
    """Sizes of the worker groups, and what the runtime is told of them."""

    groups: dict[str, GroupSize]
    """By name."""
    mix: Mix
    """How many spot and on-demand workers the policy asks for, and what is to be remembered of that."""
    gpus_granted: int | None = None
    """GPUs the job may use; None: all there are."""
    gpus_arriving: int = 0
    """GPUs of workers that come."""
    reasons: tuple[str, ...] = ()
    """Why, in words."""

    @property
    def wanted(self) -> int:
        """Workers that are to take work."""
        return self.mix.wanted

    @property
    def going(self) -> frozenset[str]:
        """Every worker that was told to go."""
        return frozenset(name for group in self.groups.values() for name in group.delete)


def size_workers(snapshot: Snapshot, spec: LLMBatchJobSpec) -> Sizing:
    """Return the sizes of the worker groups for what the job can use and the policy allows."""
    found = workers(snapshot)
    told = shrinking(snapshot)
    mix = plan_capacity(_situation(snapshot, spec, found, told))
    targets = {SPOT_GROUP: mix.spot, ON_DEMAND_GROUP: mix.on_demand}
    asked = {group.name: group.replicas for group in snapshot.cluster.groups} if snapshot.cluster else {}
    groups = {
        name: group_size(
            [worker for worker in found if worker.pod.group == name], target, snapshot.now, told, asked.get(name, 0)
        )
        for name, target in targets.items()
    }
    ready = sum(worker.useful for worker in found)
    reasons = [f"{name}: {size.reason}" for name, size in groups.items() if size.reason]
    return Sizing(
        groups=groups,
        mix=mix,
        gpus_arriving=spec.worker_gpus() * max(0, mix.wanted - ready),
        reasons=tuple([mix.reason, *reasons] if mix.reason else reasons),
    )


def group_size(
    found: Sequence[Worker], target: int, now: float, told: frozenset[str] = frozenset(), asked: int = 0
) -> GroupSize:
    """Return what KubeRay is told so that a group has `target` workers that stay.

    Args:
        found: The group's workers.
        target: Workers that are to stay, those that are still to come included.
        now: Unix seconds.
        told: Workers that KubeRay was told to delete before.
        asked: The size that KubeRay was told before.
    """
    going = {worker.pod.name for worker in found if worker.pod.name in told or _terminates_slowly(worker, now)}
    staying = [worker for worker in found if not worker.doomed and worker.pod.name not in going]
    surplus = sorted(staying, key=_cheapest_first)[: max(0, len(staying) - target)]
    going |= {worker.pod.name for worker in surplus}
    filled = sum(worker.useful for worker in staying) >= target
    lingering = {worker.pod.name for worker in found if filled and _lingers(worker, now)} - going
    going |= lingering
    noticed = [worker for worker in found if worker.doomed and worker.pod.name not in going]
    reason = ""
    if surplus:
        reason = f"{len(surplus)} of {len(staying)} workers are more than can be used"
    elif lingering:
        reason = f"{len(lingering)} that were asked to leave stay on and are made up for"
    elif noticed:
        reason = f"{len(noticed)} on notice are made up for"
    size = target + len(noticed)
    unseen = max(0, asked - sum(worker.pod.name not in told for worker in found))
    return GroupSize(replicas=max(size, min(asked, size + unseen)), delete=tuple(sorted(going)), reason=reason)


def _terminates_slowly(worker: Worker, now: float) -> bool:
    notice = worker.notice
    if not worker.pod.terminating or notice is None:
        return worker.pod.terminating
    # The pods of a machine that is gone are deleted without grace.
    return notice.kind != "lost" and (notice.deadline is None or notice.deadline - now >= NAMING_SECONDS)


def _lingers(worker: Worker, now: float) -> bool:
    """Tell whether nobody takes a worker that gets no more batches: Karpenter waits for a pod that asks it to."""
    notice, known_since = worker.notice, worker.counted_at
    if notice is None or known_since is None or worker.pod.terminating:
        return False
    return notice.kind == "draining" and notice.deadline is None and now - known_since >= LINGERING_SECONDS


def _cheapest_first(worker: Worker) -> tuple[bool, bool, float]:
    """Order workers by what their loss costs.

    First those that wait for a node, the longest waiting one before the others: nobody misses it. Then those that
    start, then those with the youngest models.
    """
    pod = worker.pod
    return (pod.ready, pod.node is not None, pod.created_at if pod.node is None else -pod.created_at)


def _situation(snapshot: Snapshot, spec: LLMBatchJobSpec, found: Sequence[Worker], told: frozenset[str]) -> Situation:
    """Return what the capacity policy needs to know of a snapshot."""
    progress, gpus = present_progress(snapshot), spec.worker_gpus()
    useful = None
    if progress is not None and progress.useful_gpus is not None and gpus:
        # One stays to the end: the head runs no tasks, so without a worker nothing that is finished can be committed.
        useful = max(1, math.ceil(progress.useful_gpus / gpus))
    capacity = snapshot.job.status.capacity or CapacityStatus()
    return Situation(
        spec=spec.capacity,
        now=snapshot.now,
        useful=useful,
        fleet=_fleet(snapshot, [worker for worker in found if worker.pod.name not in told]),
        forecast=_forecast(snapshot, spec, sum(worker.useful for worker in found)),
        stored=Fallback(capacity.fallback_workers, unix(capacity.fallback_since)),
        prices=spec.budget.prices if spec.budget else None,
    )


def _fleet(snapshot: Snapshot, found: Sequence[Worker]) -> Fleet:
    preemptions = snapshot.job.status.preemptions
    recent = preemptions.recent if preemptions else ()
    coming = [worker.pod for worker in found if worker.spot and not worker.pod.ready and not worker.doomed]
    return Fleet(
        spot=sum(worker.useful and worker.spot for worker in found),
        starting=sum(pod.node is not None for pod in coming),
        on_demand=sum(worker.useful and not worker.spot for worker in found),
        waiting=tuple(pod.created_at for pod in coming if pod.node is None),
        losses=tuple(
            Loss(at=unix(loss.observed_at) or 0.0, age=float(loss.age_seconds))
            for loss in recent
            if loss.spot and loss.age_seconds is not None
        ),
    )


def _forecast(snapshot: Snapshot, spec: LLMBatchJobSpec, working: int) -> Forecast:
    status, progress = snapshot.job.status, present_progress(snapshot)
    warm = status.attempt_started_at is not None and since(snapshot.now, status.attempt_started_at) >= WARM_UP_SECONDS
    remaining = progress.rows.estimated_remaining_seconds if progress is not None and warm else None
    started, limit = unix(status.started_at), spec.active_deadline_seconds
    return Forecast(
        remaining_seconds=None if remaining is None else float(remaining),
        workers=working,
        seconds_to_deadline=None if started is None or limit is None else started + limit - snapshot.now,
        money=None if spec.budget is None else max(0.0, spec.budget.max_cost - (status.estimated_cost or 0.0)),
    )
