"""Room for replicas: a replica's GPUs are on one node, of the accelerator its stage asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmbatch.core.stages.model import CapacityView, PoolView

CPU_HEADROOM = 0.5
"""Cores of the cluster that replicas without a GPU leave to reads and commits, which reserve 0.1 each."""


class Slots:
    """GPUs and CPUs on the nodes that stay, to be taken by one replica after another."""

    def __init__(self, capacity: CapacityView) -> None:
        """Start with all of them free."""
        healthy = [node for node in capacity.nodes if node.healthy]
        self._nodes = Counter((node.accelerator, node.gpus) for node in healthy if node.gpus > 0)
        self._cpus = sum(node.cpus for node in healthy) - CPU_HEADROOM
        gpus = sum(node.gpus for node in healthy)
        self._gpus = gpus if capacity.gpus_granted is None else min(gpus, capacity.gpus_granted)

    @property
    def gpus(self) -> int:
        """GPUs that may still be taken."""
        return self._gpus

    def take(self, pool: PoolView) -> bool:
        """Take the room of one replica, on the fullest node it fits; tell whether there was any."""
        return self._take_cpus(pool.cpus) if not pool.gpus else self._take_gpus(pool)

    def _take_cpus(self, cpus: float) -> bool:
        if cpus > self._cpus:
            return False
        self._cpus -= cpus
        return True

    def _take_gpus(self, pool: PoolView) -> bool:
        if pool.gpus > self._gpus:
            return False
        fits = [
            (free, accelerator)
            for accelerator, free in self._nodes
            if free >= pool.gpus and pool.accelerator in ("", accelerator)
        ]
        if not fits:
            return False
        free, accelerator = min(fits)
        self._nodes[accelerator, free] -= 1
        if not self._nodes[accelerator, free]:
            del self._nodes[accelerator, free]
        if free > pool.gpus:
            self._nodes[accelerator, free - pool.gpus] += 1
        self._gpus -= pool.gpus
        return True


def hardest_first(pools: Sequence[PoolView]) -> list[int]:
    """Return the stages' positions, those that are hardest to place first."""
    return sorted(range(len(pools)), key=lambda index: (not pools[index].accelerator, -pools[index].gpus, index))
