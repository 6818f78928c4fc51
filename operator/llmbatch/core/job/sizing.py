"""From how many workers there should be to what KubeRay is told: sizes that count the leaving, and pods by name.

KubeRay 1.6 counts every pod of a group, terminating ones too, except those named in `workersToDelete`; and where it
has too many it takes any. So a worker on notice is made up for by a larger size while it still runs, one that
terminates is named, and whatever is to shrink is named as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.facts import Worker, present_progress, shrinking, workers
from llmbatch.core.job.snapshot import ON_DEMAND_GROUP, SPOT_GROUP, Snapshot


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
    wanted: int
    """Workers that are to take work."""
    gpus_granted: int | None = None
    """GPUs the job may use; None: all there are."""
    gpus_arriving: int = 0
    """GPUs of workers that come."""
    reasons: tuple[str, ...] = ()
    """Why, in words."""

    @property
    def going(self) -> frozenset[str]:
        """Every worker that was told to go."""
        return frozenset(name for group in self.groups.values() for name in group.delete)


def size_workers(snapshot: Snapshot, spec: LLMBatchJobSpec) -> Sizing:
    """Return the sizes of the worker groups for what the job can use and the policy allows."""
    targets = _targets(snapshot, spec)
    found = workers(snapshot)
    told = shrinking(snapshot)
    groups = {
        name: group_size([worker for worker in found if worker.pod.group == name], target, told)
        for name, target in targets.items()
    }
    wanted = sum(targets.values())
    ready = sum(worker.useful for worker in found)
    return Sizing(
        groups=groups,
        wanted=wanted,
        gpus_arriving=spec.worker_gpus() * max(0, wanted - ready),
        reasons=tuple(f"{name}: {size.reason}" for name, size in groups.items() if size.reason),
    )


def group_size(found: Sequence[Worker], target: int, told: frozenset[str] = frozenset()) -> GroupSize:
    """Return what KubeRay is told so that a group has `target` workers that stay.

    Args:
        found: The group's workers.
        target: Workers that are to stay, those that are still to come included.
        told: Workers that KubeRay was told to delete before.
    """
    going = {worker.pod.name for worker in found if worker.pod.terminating or worker.pod.name in told}
    noticed = [worker for worker in found if worker.doomed and worker.pod.name not in going]
    staying = [worker for worker in found if not worker.doomed and worker.pod.name not in going]
    surplus = sorted(staying, key=_cheapest_first)[: max(0, len(staying) - target)]
    going |= {worker.pod.name for worker in surplus}
    reason = ""
    if surplus:
        reason = f"{len(surplus)} of {len(staying)} workers are more than can be used"
    elif noticed:
        reason = f"{len(noticed)} on notice are made up for"
    return GroupSize(replicas=target + len(noticed), delete=tuple(sorted(going)), reason=reason)


def _cheapest_first(worker: Worker) -> tuple[bool, float]:
    """Order workers by what their loss costs: first those that do not run yet, then those with the youngest models."""
    return (worker.pod.ready, -worker.pod.created_at)


def _targets(snapshot: Snapshot, spec: LLMBatchJobSpec) -> dict[str, int]:
    spot, on_demand = spec.capacity.spot, spec.capacity.on_demand
    most = spot.max + on_demand.base if spot.max else on_demand.max
    progress = present_progress(snapshot)
    gpus = spec.worker_gpus()
    if progress is not None and progress.useful_gpus is not None and gpus:
        most = min(most, math.ceil(progress.useful_gpus / gpus))
    base = min(most, on_demand.base if spot.max else on_demand.max)
    return {SPOT_GROUP: most - base, ON_DEMAND_GROUP: base}
