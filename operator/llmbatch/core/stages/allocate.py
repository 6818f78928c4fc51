"""Which stage owns which GPU: a pure, level-triggered decision, made anew on every tick."""

from __future__ import annotations

from collections.abc import Sequence

from llmbatch.core.stages.balance import balanced, fill, staying
from llmbatch.core.stages.demand import Demand, demands, useful_gpus
from llmbatch.core.stages.drain import drains_now
from llmbatch.core.stages.model import (
    Allocation,
    AllocationOptions,
    CapacityView,
    NodeView,
    PoolView,
    ReplicaView,
    Target,
)
from llmbatch.core.stages.multiplex import plan_turns, take_turns
from llmbatch.core.stages.ray_reservation import reserved
from llmbatch.core.stages.slots import Slots


def allocate(pools: Sequence[PoolView], capacity: CapacityView, now: float, options: AllocationOptions) -> Allocation:
    """Return what each stage of a chain should have on the nodes that are there.

    `pools` are in the order of the chain, `now` is in Unix seconds, as the nodes' deadlines are. With a GPU for every
    stage no stage that has work is without a replica unless stages take turns; with fewer they always do. Nothing is
    started on a node that is about to go; what runs there goes on until its last batch would not end in time.
    """
    needs = demands(pools)
    room = Slots(capacity)
    counts, turns = _counts(pools, needs, capacity, room, options)
    leaves = _Leaving(capacity, now, options.drain_margin_seconds)
    targets = tuple(
        Target(
            pool.stage,
            count,
            _retired(pool, count, capacity, leaves),
            _explain(pool, need, count, room.gpus, taking_turns=turns),
        )
        for pool, need, count in zip(pools, needs, counts, strict=True)
    )
    return Allocation(targets, useful_gpus(needs), _stall(pools, needs, capacity, room))


def _counts(
    pools: Sequence[PoolView],
    needs: Sequence[Demand],
    capacity: CapacityView,
    room: Slots,
    options: AllocationOptions,
) -> tuple[list[int], bool]:
    if options.policy == "rayReservation":
        return reserved(pools, needs, room, options.reservation_ratio), False
    turns = plan_turns(pools, needs, room, options.buffer_rows)
    if pools[0].upstream_done and pools[0].queued_rows < turns.full:
        best = fill(pools, needs, room.copy(), [0] * len(pools))
        if all(count or not need.most for count, need in zip(best, needs, strict=True)):
            return balanced(pools, needs, capacity, room, best), False
    return take_turns(pools, needs, capacity, room, turns), not turns.all_served


class _Leaving:
    """When the nodes go."""

    def __init__(self, capacity: CapacityView, now: float, margin_seconds: float) -> None:
        self._now = now
        self._margin = margin_seconds
        self._deadlines = {node.id: node.deadline for node in capacity.nodes if not node.healthy}
        self._draining = {node.id for node in capacity.nodes if node.draining_now}

    def too_soon(self, node: str | None, batch_p95_seconds: float) -> bool:
        """Tell whether a batch given to a replica there now would not end in time."""
        deadline = self._deadlines.get(node or "")
        return node in self._draining or drains_now(self._now, deadline, batch_p95_seconds, self._margin)


def _retired(pool: PoolView, count: int, capacity: CapacityView, leaves: _Leaving) -> frozenset[str]:
    """Return who gets no more rows: those too many that are missed least, and who is on a node that goes too soon."""
    stay = [pool.replicas[position] for position in staying(pool, capacity)]
    gone = sorted(stay, key=_worth)[: len(stay) - count] if len(stay) > count else []
    soon = pool.batch_p95_seconds.value
    late = [replica for replica in pool.replicas if pool.done or leaves.too_soon(replica.node, soon)]
    return frozenset(replica.id for replica in [*gone, *late])


def _worth(replica: ReplicaView) -> tuple[bool, bool, bool, int, float, str]:
    """Order replicas by what their loss costs: going already, nothing bound, still loading, few rows in work, young."""
    return (
        replica.state != "retiring",
        replica.in_flight_rows > 0,
        replica.state == "ready",
        replica.in_flight_rows,
        replica.age_seconds,
        replica.id,
    )


def _explain(pool: PoolView, need: Demand, count: int, gpus: int, *, taking_turns: bool) -> str:
    if not need.most:
        return "it gets no more rows"
    measured = f"{pool.service.value:.3g} s a row" + ("" if pool.service.samples else ", assumed")
    if not pool.gpus:
        return f"{count} without a GPU, to keep pace ({measured})"
    share = f"{count * pool.gpus} of {gpus} GPUs"
    if count == need.most:
        return f"{share}: all it can use ({measured})"
    if taking_turns:
        return f"{share}: {'its turn' if count else 'waits for its turn'}, {pool.queued_rows} rows wait ({measured})"
    return f"{share}: its share of the work ({measured})"


def _stall(pools: Sequence[PoolView], needs: Sequence[Demand], capacity: CapacityView, room: Slots) -> str:
    """Return why a stage can never run here, or nothing can: the first reason found."""
    for pool, need in zip(pools, needs, strict=True):
        if need.most and (lack := _lack(pool, capacity, room)):
            return f"stage {pool.stage} needs {lack}, and no node that stays has it"
    return ""


def _lack(pool: PoolView, capacity: CapacityView, room: Slots) -> str:
    """Return what one replica finds nowhere; empty where it fits."""
    fits = room.copy().take(pool)
    has_cores = not pool.cpus or any(_suits(node, pool) for node in capacity.nodes)
    if fits and has_cores:
        return ""
    if not pool.gpus:
        return f"{pool.cpus:g} CPUs on one node"
    kind = f" {pool.accelerator}" if pool.accelerator else ""
    gpus = f"{pool.gpus}{kind} GPU{'s' if pool.gpus > 1 else ''}"
    return f"{gpus} and {pool.cpus:g} CPUs on one node" if fits else f"{gpus} on one node"


def _suits(node: NodeView, pool: PoolView) -> bool:
    """Tell whether a node has the cores for a replica, and is one that it may be on."""
    right = not pool.gpus or (node.gpus >= pool.gpus and pool.may_use(node.accelerator))
    return node.healthy and right and node.cpus >= pool.cpus
