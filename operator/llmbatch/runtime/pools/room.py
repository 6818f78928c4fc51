"""Where a replica finds room now: GPUs of nodes that stay which no replica holds, or will hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmbatch.core.stages.balance import next_to_start, staying
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

    def in_the_way(self, wanted: PoolView, pools: Sequence[PoolView]) -> frozenset[str]:
        """Return the replicas to move so that one of `wanted` fits: its GPUs are free, but not on one node.

        They are the smaller ones of the node where the fewest rows are in work, and they fit into what is free on the
        others. Empty where no move helps, or where somebody is leaving already.
        """
        if any(replica.state == "retiring" for pool in pools for replica in pool.replicas):
            return frozenset()
        moves = [move for node in self._free if (move := self._move(node, wanted, pools)) is not None]
        return min(moves, default=(0, frozenset[str]()), key=lambda move: move[0])[1]

    def _move(self, node: str, wanted: PoolView, pools: Sequence[PoolView]) -> tuple[int, frozenset[str]] | None:
        """Return the rows in work and the ids of the replicas that would make room on a node; None if none would."""
        if not wanted.may_use(self._accelerators[node]) or wanted.gpus > self._left:
            return None
        smaller = [
            (replica, pool)
            for pool in pools
            for replica in pool.replicas
            if replica.node == node and replica.state == "ready" and 0 < pool.gpus < wanted.gpus
        ]
        others = dict(self._free)
        free, rows, moved = others.pop(node), 0, set[str]()
        for replica, pool in sorted(smaller, key=lambda held: (held[0].in_flight_rows, held[0].id)):
            if free >= wanted.gpus:
                break
            place = self._fullest(others, pool)
            if place is not None:
                others[place] -= pool.gpus
                free += pool.gpus
                rows += replica.in_flight_rows
                moved.add(replica.id)
        return (rows, frozenset(moved)) if free >= wanted.gpus else None

    def _place(self, pool: PoolView) -> bool:
        node = self._fullest(self._free, pool)
        if node is None:
            return False
        self._free[node] -= pool.gpus
        return True

    def _fullest(self, free: Mapping[str, int], pool: PoolView) -> str | None:
        """Return the node with the least room that a replica fits into."""
        fits = [
            (gpus, node)
            for node, gpus in free.items()
            if gpus >= pool.gpus > 0 and pool.may_use(self._accelerators[node])
        ]
        return min(fits)[1] if fits else None


def missing_replicas(pools: Sequence[PoolView], capacity: CapacityView, targets: Sequence[Target]) -> Iterator[int]:
    """Yield the positions of the pools to grow by one each, in the order of `next_to_start`."""
    have = [
        sum(pool.replicas[position].id not in target.retire for position in staying(pool, capacity))
        for pool, target in zip(pools, targets, strict=True)
    ]
    wanted = [target.replicas for target in targets]
    waiting = [pool.queued_rows > 0 for pool in pools]
    while (index := next_to_start(have, wanted, waiting)) is not None:
        have[index] += 1
        yield index
