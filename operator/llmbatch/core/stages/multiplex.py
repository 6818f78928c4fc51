"""Stages that take turns: the whole replicas of each stage's share stay, the left-over GPUs go round.

A stage's fair share of the GPUs is seldom whole. It always has the whole part of it and at most one replica more. A
left-over GPU works for a stage until that one's input is empty or the buffer behind it is full, and then for the one
with the most to do and the most room. Buffers are finite, so every turn ends, and the rows move on.

How many rows count as a full buffer is the economic order quantity (Harris, 1913): a turn costs the loads of those
who take turns, and rows that lie between two stages have not come out. After work worth R rows, a cycle of B rows
costs l / B of the time for loads worth l rows, and B / 2R of the rows is held back: the sum is least at
B = sqrt(2 R l), and then sqrt(2 l / R). So early turns are short, and rows come out; later ones are long, and loads
cost little; nobody has to know how long capacity will last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmbatch.core.stages.balance import ROUNDING, fill, serving
from llmbatch.core.stages.demand import Demand, chain_rate, fluid
from llmbatch.core.stages.model import CapacityView, PoolView
from llmbatch.core.stages.slots import Slots, hardest_first

WORTH_A_LOAD = 0.5
"""A replica that idles goes to a stage that could work through this share of a full buffer.

With an endless input there always is one: along the chain buffers go from full to empty, so somewhere one that is at
least half full is followed by one that is at most half full."""
FLOOR_WORTH = 1.1
"""Stages go without a replica, where each could have one, only for this much more speed."""
LONGEST_CYCLE_LOADS = 2.7
"""Where GPUs are fewer than stages a cycle takes this many times as long as all its loads one after the other: rows
come out within three times the loads."""
BUFFER_USED = 0.9
"""A buffer counts as full before it blocks: a stage that is blocked would hold its turn for nothing."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How stages share GPUs: `shares` are replicas by stage, `full` the rows at which a buffer counts as full.

    `all_served` says that every stage has a replica at any time.
    """

    shares: Sequence[float]
    full: float
    all_served: bool


def plan_turns(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, buffer_rows: int) -> Turns:
    """Return the shares: at least one replica each, unless GPUs are too few, or turns of whole stages far better."""
    free = fluid(needs, gpus)
    free_turns = Turns(free, _full_rows(pools, needs, gpus, buffer_rows, free), all_served=False)
    floors = [min(1, need.most) for need in needs]
    if gpus < sum(floor * pool.gpus for floor, pool in zip(floors, pools, strict=True)):
        return free_turns
    served = fluid(needs, gpus, floors)
    ideal, kept = _pace(needs, free), _pace(needs, served)
    if ideal * (1 - _cost(pools, needs, free)) > FLOOR_WORTH * kept:
        return free_turns
    return Turns(served, _full_rows(pools, needs, gpus, buffer_rows, served), all_served=True)


def take_turns(
    pools: Sequence[PoolView], needs: Sequence[Demand], capacity: CapacityView, room: Slots, turns: Turns
) -> list[int]:
    """Return replicas by stage."""
    slots = room.copy()
    found = [0] * len(pools)
    held = [len(serving(pool, capacity)) for pool in pools]
    most = [min(need.most, math.ceil(share - ROUNDING)) for need, share in zip(needs, turns.shares, strict=True)]
    does = [_could_do(pools, index, turns.full) for index in range(len(pools))]
    busy = [pool.queued_rows + pool.in_flight_rows > (count - 1) * pool.batch_rows for pool, count in zip(pools, held)]
    busy[0] = busy[0] or not pools[0].upstream_done

    def give(indexes: Sequence[int], wanted: Sequence[int]) -> None:
        for index in indexes:
            found[index] += slots.take_up_to(pools[index], max(0, wanted[index] - found[index]))

    by_work = sorted(range(len(pools)), key=lambda index: (-does[index], -index))
    keep = [min(count, more) for count, more in zip(held, most, strict=True)]
    give(hardest_first(pools), [math.floor(share + ROUNDING) for share in turns.shares])
    give([index for index in by_work if busy[index] and does[index] > 0], keep)
    give([index for index in by_work if does[index] >= WORTH_A_LOAD], most)
    give(by_work, keep)
    give(sorted(by_work, key=lambda index: (does[index] <= 0, found[index] - turns.shares[index])), most)
    return fill(pools, needs, room.copy(), found) if turns.all_served else found


def _full_rows(
    pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, buffer_rows: int, shares: Sequence[float]
) -> float:
    """Return the rows before a stage at which its buffer counts as full."""
    most = BUFFER_USED * buffer_rows
    work = _work(needs)
    if not work:
        return most
    active = [(pool, need) for pool, need in zip(pools, needs, strict=True) if need.most and pool.gpus]
    if gpus < sum(pool.gpus for pool, _ in active):
        a_round = sum(pool.load_seconds.value for pool, _ in active)
        loads = sum(pool.load_seconds.value * pool.gpus for pool, _ in active)
        most = min(most, (LONGEST_CYCLE_LOADS * gpus * a_round - loads) / work)
    load_rows = _turning_loads(pools, needs, shares) / work
    best = math.sqrt(2 * (_rows_done(pools, needs) + load_rows) * load_rows)
    return max(2.0 * max(pool.batch_rows for pool in pools), min(most, best))


def _cost(pools: Sequence[PoolView], needs: Sequence[Demand], shares: Sequence[float]) -> float:
    """Return the share of the work that turns of the best length cost, loads and rows held back together."""
    load_rows = _turning_loads(pools, needs, shares) / _work(needs)
    return math.sqrt(2 * load_rows / (_rows_done(pools, needs) + load_rows)) if load_rows else 0.0


def _work(needs: Sequence[Demand]) -> float:
    """Return the GPU-seconds of a row."""
    return sum(need.per_row for need in needs if need.gpus)


def _rows_done(pools: Sequence[PoolView], needs: Sequence[Demand]) -> float:
    """Return the rows that all the work done so far would have finished."""
    done = sum(pool.finished_rows * need.per_row for pool, need in zip(pools, needs, strict=True) if need.gpus)
    return done / _work(needs)


def _turning_loads(pools: Sequence[PoolView], needs: Sequence[Demand], shares: Sequence[float]) -> float:
    """Return the GPU-seconds in which each stage whose share is not whole loads one replica."""
    return sum(
        pool.load_seconds.value * pool.gpus
        for pool, need, share in zip(pools, needs, shares, strict=True)
        if need.most and pool.gpus and not math.isclose(share, round(share), abs_tol=1e-6)
    )


def _pace(needs: Sequence[Demand], shares: Sequence[float]) -> float:
    return min((need.rate(1) * share for need, share in zip(needs, shares, strict=True) if need.per_row), default=0.0)


def _could_do(pools: Sequence[PoolView], index: int, full: float) -> float:
    """Return how much a stage could do in a turn, in 0 to 1: the lesser of its input and the room behind it."""
    pool = pools[index]
    if pool.done or not pool.gpus:
        return 0.0
    waiting = pool.queued_rows + pool.in_flight_rows
    if index == 0 and not pool.upstream_done:
        waiting = max(waiting, math.ceil(full))
    room = 1.0
    if index + 1 < len(pools):
        room -= (pools[index + 1].queued_rows + pool.in_flight_rows) / full
    return max(0.0, min(1.0, waiting / full, room))
