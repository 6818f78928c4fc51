"""Stages that take turns: the whole replicas of each stage's share stay, the left-over GPUs go round.

A stage's fair share of the GPUs is seldom whole. It always has the whole part of it and at most one replica more. A
left-over GPU works for a stage until that one's input is empty or the buffer behind it is full, and then for one with
much to do and much room. Buffers are finite, so every turn ends, and the rows move on.

How many rows count as a full buffer is an economic order quantity (Harris, 1913): a turn costs the loads of those
who take turns, and rows that lie between two stages have not come out. After work worth R rows, cycles of B rows
spend l / B of the time on loads worth l rows, and B / 2R of the rows is held back: the sum is least at
B = sqrt(2 R l), and is then sqrt(2 l / R). So early turns are short, and rows come out; later ones are long, and
loads cost little. Nobody has to know how long the capacity will last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmbatch.core.stages.balance import ROUNDING, fill, serving
from llmbatch.core.stages.demand import Demand, fluid
from llmbatch.core.stages.model import CapacityView, PoolView
from llmbatch.core.stages.slots import Slots, hardest_first

WORTH_A_LOAD = 0.5
"""A replica that idles goes to a stage that has this share of a full buffer to do, and of one free behind it.

While the input is not read to its end there always is one: along the chain buffers go from full to empty, so somewhere
one that is at least half full is followed by one that is at most half full. From then on all may be less than half
full: where nobody works, any rows are worth a load."""
FLOOR_WORTH = 1.2
"""Stages go without a replica, where each could have one, only for this much more speed."""
LEAST_BATCHES = 4
"""Batches a full buffer has for each of a stage's replicas, two of them at least: less comes and goes by chance."""
LONGEST_CYCLE_LOADS = 2.1
"""Where GPUs are fewer than stages a cycle that keeps them all busy takes this many times as long as all its loads one
after the other. Turns overlap worse than that, and rows come out within three times the loads."""
BUFFER_USED = 0.9
"""A buffer counts as full before it blocks: a stage that is blocked would hold its turn for nothing."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How stages share GPUs: `shares` are replicas by stage, `full` the rows at which a buffer counts as full.

    `least` replicas a stage has at any time, and `all_served` says that every stage has one.
    """

    shares: Sequence[float]
    least: Sequence[int]
    full: float
    all_served: bool


def plan_turns(pools: Sequence[PoolView], needs: Sequence[Demand], room: Slots, buffer_rows: int) -> Turns:
    """Return the shares: at least one replica each, unless GPUs are too few, or going without is far better.

    Where there are enough, but not of the kind or not on a node that stages need, nobody has a GPU for good.
    """
    gpus = room.gpus
    work = sum(need.per_row for need in needs if need.gpus) or 1.0
    done = sum(pool.finished_rows * need.per_row for pool, need in zip(pools, needs, strict=True) if need.gpus) / work
    one_each = [min(1, need.most) for need in needs]
    minima = [min(max(1, pool.min_replicas), need.most) for pool, need in zip(pools, needs, strict=True)]
    few = gpus < _gpus(needs, one_each)
    free = fluid(needs, gpus)
    served = fluid(needs, gpus, one_each if gpus < _gpus(needs, minima) else minima)
    loads = _loads(pools, needs, free) / work
    cost = math.sqrt(2 * loads / (done + loads)) if loads else 0.0
    places = room.copy()
    fit = all(places.take_up_to(pools[index], one_each[index]) == one_each[index] for index in hardest_first(pools))
    all_served = fit and not few and _pace(needs, free) * (1 - cost) <= FLOOR_WORTH * _pace(needs, served)
    if all_served:
        loads = _loads(pools, needs, served) / work
    a_batch = max(pool.batch_rows for pool in pools)
    replicas = gpus / max(1, _gpus(needs, one_each))
    full = max(LEAST_BATCHES * a_batch * max(2.0, replicas), math.sqrt(2 * (done + loads) * loads))
    most = min(BUFFER_USED * buffer_rows, _longest_cycle(pools, needs, gpus) / work if few else math.inf)
    shares = served if all_served else free
    least = [math.floor(share + ROUNDING) for share in shares]
    if not (fit or few) or not _lets_others_in(pools, needs, room, least):
        least = [0] * len(pools)
    return Turns(shares, least, min(full, max(most, 2.0 * a_batch)), all_served)


def _lets_others_in(pools: Sequence[PoolView], needs: Sequence[Demand], room: Slots, least: Sequence[int]) -> bool:
    """Tell whether a turn of each stage fits beside what others have for good: a small replica may block a gang."""
    left = room.copy()
    held = {index: left.take_up_to(pools[index], least[index]) for index in hardest_first(pools)}
    waiting = [pool for index, pool in enumerate(pools) if needs[index].most and not held[index]]
    return all(left.copy().take(pool) for pool in waiting if room.copy().take(pool))


def _gpus(needs: Sequence[Demand], replicas: Sequence[int]) -> int:
    return sum(count * need.gpus for count, need in zip(replicas, needs, strict=True))


def _loads(pools: Sequence[PoolView], needs: Sequence[Demand], shares: Sequence[float]) -> float:
    """Return the GPU-seconds of loads in the time in which a full buffer's rows go through the chain.

    A stage whose share is n + f has too few replicas, or too many, by little: it goes round f (1 - f) / (n + f) times.
    """
    total = 0.0
    for pool, need, share in zip(pools, needs, shares, strict=True):
        part = share - math.floor(share + ROUNDING)
        if need.most and pool.gpus and part > ROUNDING:
            total += pool.load_seconds.value * pool.gpus * part * (1 - part) / share
    return total


def _longest_cycle(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int) -> float:
    """Return the GPU-seconds of work in a cycle that lets rows out in time, where every stage loads once in it."""
    active = [pool for pool, need in zip(pools, needs, strict=True) if need.most and pool.gpus]
    a_round = sum(pool.load_seconds.value for pool in active)
    return LONGEST_CYCLE_LOADS * gpus * a_round - sum(pool.load_seconds.value * pool.gpus for pool in active)


def _pace(needs: Sequence[Demand], shares: Sequence[float]) -> float:
    """Return the rows a second of the slowest stage."""
    return min((need.rate(1) * share for need, share in zip(needs, shares, strict=True) if need.per_row), default=0.0)


def take_turns(
    pools: Sequence[PoolView], needs: Sequence[Demand], capacity: CapacityView, room: Slots, turns: Turns
) -> list[int]:
    """Return replicas by stage.

    In this order: whole parts of the shares, turns that go on, those with much to do, those who hold a GPU and have
    something to do, those with anything to do where nobody works so far, those who hold a GPU although they wait, and
    whoever lacks most of its share.

    So somebody works as long as there are rows: behind the last stage that has some there is room.
    """
    slots = room.copy()
    found = [0] * len(pools)
    stages = range(len(pools))
    held = [len(serving(pool, capacity)) for pool in pools]
    most = [min(need.most, math.ceil(share - ROUNDING)) for need, share in zip(needs, turns.shares, strict=True)]
    keep = [min(count, limit) for count, limit in zip(held, most, strict=True)]
    free = [_room(pools, index, turns.full) for index in stages]
    does = [min(free[index], _input(pools, index, turns.full)) for index in stages]
    by_work = sorted(stages, key=lambda index: (-does[index], -index))
    able = [index for index in by_work if does[index] > 0]

    def give(indexes: Sequence[int], wanted: Sequence[int]) -> None:
        for index in indexes:
            found[index] += slots.take_up_to(pools[index], max(0, wanted[index] - found[index]))

    if turns.all_served:
        give(hardest_first(pools), [min(1, need.most) for need in needs])
    give(hardest_first(pools), turns.least)
    give([index for index in by_work if free[index] > 0 and _all_busy(pools, index, held[index])], keep)
    give([index for index in by_work if does[index] >= WORTH_A_LOAD], most)
    give(able, keep)
    if not any(found[index] and (does[index] > 0 or pools[index].in_flight_rows) for index in stages):
        give(able, most)
    give(by_work, keep)
    give(sorted(by_work, key=lambda index: (does[index] == 0, found[index] - turns.shares[index])), most)
    return fill(pools, needs, room.copy(), found) if turns.all_served else found


def _endless(pools: Sequence[PoolView], index: int) -> bool:
    return index == 0 and not pools[0].upstream_done


def _all_busy(pools: Sequence[PoolView], index: int, replicas: int) -> bool:
    """Tell whether a stage has a batch for each of its replicas."""
    pool = pools[index]
    return _endless(pools, index) or pool.queued_rows + pool.in_flight_rows > (replicas - 1) * pool.batch_rows


def _input(pools: Sequence[PoolView], index: int, full: float) -> float:
    """Return the rows that wait for a stage, as a share of a full buffer, at most 1."""
    return 1.0 if _endless(pools, index) else min(1.0, pools[index].queued_rows / full)


def _room(pools: Sequence[PoolView], index: int, full: float) -> float:
    """Return the free part of the buffer behind a stage, in 0 to 1."""
    return 1.0 if index + 1 == len(pools) else max(0.0, 1.0 - pools[index + 1].queued_rows / full)
