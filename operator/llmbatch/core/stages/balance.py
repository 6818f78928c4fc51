"""Pools that make the slowest stage fastest, and that do not change for less than a change costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmbatch.core.stages.demand import Demand, chain_rate, fluid
from llmbatch.core.stages.model import CapacityView, PoolView
from llmbatch.core.stages.slots import Slots, hardest_first

SWITCH_GAIN = 0.05
"""Replicas of one stage are given up for another's only for this much more speed: estimates waver by less."""
ROUNDING = 1e-9
"""A share that is whole but for its rounding is whole."""
SWITCH_HORIZON_SECONDS = 600.0
"""A switch has to pay for its loads within this time: spot capacity seldom holds still for longer."""


def serving(pool: PoolView, capacity: CapacityView) -> list[int]:
    """Return the positions of a pool's replicas that do not leave: not retiring, not on a node that goes."""
    return [position for position in staying(pool, capacity) if pool.replicas[position].state != "retiring"]


def staying(pool: PoolView, capacity: CapacityView) -> list[int]:
    """Return the positions of a pool's replicas that are not on a node that goes."""
    leaving = {node.id for node in capacity.nodes if not node.healthy}
    return [position for position, replica in enumerate(pool.replicas) if replica.node not in leaving]


def next_to_start(have: Sequence[int], wanted: Sequence[int], waiting: Sequence[bool]) -> int | None:
    """Return which stage's replica to start next, the stage that has the least of what it should have; None if none.

    Of several one that has rows `waiting` comes first, then the one nearest the source: it feeds the others.
    """
    short = [index for index, count in enumerate(wanted) if have[index] < count]
    return min(short, key=lambda one: (have[one] / wanted[one], not waiting[one], one), default=None)


def balanced(
    pools: Sequence[PoolView], needs: Sequence[Demand], capacity: CapacityView, room: Slots, best: Sequence[int]
) -> list[int]:
    """Return replicas by stage: what is there, filled up, unless the `best` division is worth the switch."""
    held = [min(len(serving(pool, capacity)), need.most) for pool, need in zip(pools, needs, strict=True)]
    kept = fill(pools, needs, room.copy(), shrink(pools, needs, room.gpus, held))
    return list(best) if _pays(pools, needs, capacity, kept, best) else kept


def fill(pools: Sequence[PoolView], needs: Sequence[Demand], slots: Slots, counts: Sequence[int]) -> list[int]:
    """Add replicas to `counts`, the slowest stage's first, until that one can have no more.

    A stage without a replica comes before one that lacks its minimum, and that before any other. Greedy is best for
    a minimum of rates. What of `counts` does not fit is left out.
    """
    found = [0] * len(pools)
    floors = [min(1, count) for count in counts]
    for wanted in (floors, counts):
        for index in hardest_first(pools):
            found[index] += slots.take_up_to(pools[index], wanted[index] - found[index])
    for index in hardest_first(pools):
        if not found[index] and needs[index].most and slots.take(pools[index]):
            found[index] = 1
    for index, count in enumerate(_at_one_pace(pools, needs, found, slots.gpus)):
        found[index] += slots.take_up_to(pools[index], count - found[index])
    while (slowest := _next(pools, needs, found)) is not None and slots.take(pools[slowest]):
        found[slowest] += 1
    return found


def _at_one_pace(pools: Sequence[PoolView], needs: Sequence[Demand], found: Sequence[int], gpus: int) -> Sequence[int]:
    """Return the replicas that all stages reach when the slowest is raised again and again, short of the last ones."""
    if any(count < min(pool.min_replicas, need.most) for pool, need, count in zip(pools, needs, found, strict=True)):
        return found
    held = sum(count * pool.gpus for count, pool in zip(found, pools, strict=True))
    return [math.floor(share + ROUNDING) for share in fluid(needs, gpus + held, found)]


def _next(pools: Sequence[PoolView], needs: Sequence[Demand], found: Sequence[int]) -> int | None:
    """Return the stage that gets the next replica; None when the slowest has all it may have."""
    active = [index for index, need in enumerate(needs) if need.most]
    short = [index for index in active if found[index] < min(pools[index].min_replicas, needs[index].most)]
    if not active:
        return None
    slowest = min(short or active, key=lambda index: needs[index].rate(found[index]))
    return slowest if found[slowest] < needs[slowest].most else None


def shrink(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, counts: Sequence[int]) -> list[int]:
    """Take replicas away until the GPUs suffice, each from the stage that is fastest without it."""
    found = list(counts)
    over = sum(count * pool.gpus for count, pool in zip(found, pools, strict=True)) - gpus
    while over > 0:
        holders = [index for index, pool in enumerate(pools) if pool.gpus and found[index]]
        spare = max(holders, key=lambda index: (needs[index].rate(found[index] - 1), index))
        found[spare] -= 1
        over -= pools[spare].gpus
    return found


def _pays(
    pools: Sequence[PoolView],
    needs: Sequence[Demand],
    capacity: CapacityView,
    kept: Sequence[int],
    best: Sequence[int],
) -> bool:
    """Tell whether giving up replicas of one stage for another's brings more rows than its loads cost."""
    now, then = chain_rate(needs, kept), chain_rate(needs, best)
    if then <= now:
        return False
    if now == 0:
        return True
    if capacity.gpus_arriving or then < now * (1 + SWITCH_GAIN):
        return False
    loading = sum(
        max(0, more - fewer) * pool.gpus * pool.load_seconds.value
        for pool, more, fewer in zip(pools, best, kept, strict=True)
    )
    cost_rows = loading / sum(need.per_row for need in needs if need.gpus) if any(need.gpus for need in needs) else 0.0
    return (then - now) * SWITCH_HORIZON_SECONDS > cost_rows
