"""Room for replicas: a replica's GPUs are on one node, of the accelerator its stage asks for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from llmbatch.core.stages.model import CapacityView, PoolView

CPU_HEADROOM = 0.5
"""Cores of the cluster that replicas without a GPU leave to reads and commits, which reserve 0.1 each."""


class Slots:
    """GPUs and CPUs on the nodes that stay, to be taken by one replica after another. Copies are independent."""

    def __init__(self, capacity: CapacityView) -> None:
        """Start with all of them free."""
        healthy = [node for node in capacity.nodes if node.healthy]
        self._nodes = Counter((node.accelerator, node.gpus) for node in healthy if node.gpus > 0)
        self._cpus = sum(node.cpus for node in healthy) - CPU_HEADROOM
        gpus = sum(node.gpus for node in healthy)
        self._gpus = gpus if capacity.gpus_granted is None else min(gpus, capacity.gpus_granted)

    def copy(self) -> Slots:
        """Return the same room, to be taken anew."""
        other = object.__new__(Slots)
        other._nodes, other._cpus, other._gpus = self._nodes.copy(), self._cpus, self._gpus
        return other

    @property
    def gpus(self) -> int:
        """GPUs that may still be taken."""
        return self._gpus

    def take(self, pool: PoolView) -> bool:
        """Take the room of one replica, on the fullest node it fits; tell whether there was any."""
        return self.take_up_to(pool, 1) == 1

    def take_up_to(self, pool: PoolView, wanted: int) -> int:
        """Take the room of several replicas, one after the other; return how many found any."""
        if not pool.gpus:
            return self._take_cpus(pool.cpus, wanted)
        wanted = min(wanted, self._gpus // pool.gpus)
        found = 0
        while found < wanted and (more := self._take_gpus(pool, wanted - found)):
            found += more
        return found

    def _take_cpus(self, cpus: float, wanted: int) -> int:
        found = min(wanted, max(0, math.floor(self._cpus / cpus + 1e-9))) if cpus else wanted
        self._cpus -= found * cpus
        return found

    def _take_gpus(self, pool: PoolView, wanted: int) -> int:
        """Take room on nodes that are equally full: on as many whole ones as are needed, or on a part of one."""
        fits = [
            (free, accelerator) for accelerator, free in self._nodes if free >= pool.gpus and pool.may_use(accelerator)
        ]
        if not fits:
            return 0
        free, accelerator = min(fits)
        a_node = min(wanted, free // pool.gpus)
        nodes = min(wanted // a_node, self._nodes[accelerator, free])
        self._nodes[accelerator, free] -= nodes
        if not self._nodes[accelerator, free]:
            del self._nodes[accelerator, free]
        if rest := free - a_node * pool.gpus:
            self._nodes[accelerator, rest] += nodes
        self._gpus -= nodes * a_node * pool.gpus
        return nodes * a_node


def hardest_first(pools: Sequence[PoolView]) -> list[int]:
    """Return the stages' positions, those that are hardest to place first."""
    return sorted(range(len(pools)), key=lambda index: (not pools[index].accelerator, -pools[index].gpus, index))
