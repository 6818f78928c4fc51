"""How large the worker groups are to be."""

from __future__ import annotations

import math
from typing import NamedTuple

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.facts import present_progress, workers
from llmbatch.core.job.snapshot import ON_DEMAND_GROUP, SPOT_GROUP, Snapshot


class GroupSize(NamedTuple):
    """Size of one worker group."""

    replicas: int
    """What KubeRay is to count, terminating pods included."""
    delete: tuple[str, ...] = ()
    """Pods that go."""
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


def size_workers(snapshot: Snapshot, spec: LLMBatchJobSpec) -> Sizing:
    """Return the sizes."""
    gpus = spec.worker_gpus()
    spot, on_demand = spec.capacity.spot, spec.capacity.on_demand
    progress = present_progress(snapshot)
    useful = progress.useful_gpus if progress else None
    most = spot.max + on_demand.base
    total = most if useful is None or gpus == 0 else min(most, math.ceil(useful / gpus))
    base = min(on_demand.base, total)
    sizes = {SPOT_GROUP: total - base, ON_DEMAND_GROUP: base}
    found = workers(snapshot)
    ready = sum(worker.useful for worker in found)
    return Sizing(
        groups={name: GroupSize(size) for name, size in sizes.items()},
        wanted=total,
        gpus_arriving=gpus * max(0, total - ready),
    )
