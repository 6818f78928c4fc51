"""Where a replica finds room now: GPUs of nodes that stay which no replica holds, or will hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmbatch.core.stages.balance import staying
from llmbatch.core.stages.model import CapacityView, PoolView, Target


class Room:
    """Free GPUs, node by node. Replicas that start or restart have no node yet: they hold the fullest they fit."""

    def __init__(self, pools: Sequence[PoolView], capacity: CapacityView) -> None:
        """Count what the pools' replicas hold."""
        healthy = [node for node in capacity.nodes if node.healthy]
        self._free = {node.id: node.gpus for node in healthy}
        self._accelerators = {node.id: node.accelerator for node in healthy}
        held = 0
        homeless: list[PoolView] = []
        for pool in pools:
            for replica in pool.replicas:
                # A restarting replica still names the node it lost.
                if replica.state in ("loading", "restarting") or replica.node is None:
                    homeless.append(pool)
                    held += pool.gpus
                elif replica.node in self._free:
                    self._free[replica.node] -= pool.gpus
                    held += pool.gpus
        granted = sum(self._free.values()) + held if capacity.gpus_granted is None else capacity.gpus_granted
        self._left = granted - held
        for pool in sorted(homeless, key=lambda pool: -pool.gpus):
            self._place(pool)

    def take(self, pool: PoolView) -> bool:
        """Take the room of one more replica; tell whether there was any. Without a GPU there always is."""
        if not pool.gpus:
            return True
        if pool.gpus > self._left or not self._place(pool):
            return False
        self._left -= pool.gpus
        return True

    def _place(self, pool: PoolView) -> bool:
        fits = [
            (free, node)
            for node, free in self._free.items()
            if free >= pool.gpus > 0 and pool.accelerator in ("", self._accelerators[node])
        ]
        if not fits:
            return False
        self._free[min(fits)[1]] -= pool.gpus
        return True


def missing_replicas(pools: Sequence[PoolView], capacity: CapacityView, targets: Sequence[Target]) -> Iterator[int]:
    """Yield the positions of the pools to grow by one each, the one that has the least of its target first."""
    have = [
        sum(pool.replicas[position].id not in target.retire for position in staying(pool, capacity))
        for pool, target in zip(pools, targets, strict=True)
    ]
    while True:
        short = [index for index, target in enumerate(targets) if have[index] < target.replicas]
        if not short:
            return
        index = min(short, key=lambda index: (have[index] / targets[index].replicas, -index))
        have[index] += 1
        yield index
