"""Stages that take turns on a GPU: the whole replicas of each stage's share stay, the fractions are turns.

A stage keeps its turn until its input is empty or the buffer behind it is full: then the stage with the most to do
and the most room gets it. Buffers are finite, so every turn ends, and the rows move on. The length of a turn is set
by the buffer that counts as full: long enough to pay for the loads, short enough that rows come out in every cycle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmbatch.core.stages.balance import serving
from llmbatch.core.stages.demand import Demand, chain_rate, fluid
from llmbatch.core.stages.model import CapacityView, PoolView
from llmbatch.core.stages.slots import Slots, hardest_first

WORTH_TURNS = 0.8
"""Stages take turns where whole replicas reach less than this share of what fractions would."""
TURN_COST = 0.06
"""Share of the GPU-seconds of a cycle that the loads of its turns may take: a longer cycle holds more rows back."""
SHORT_CYCLE_LOADS = 1.5
"""Where GPUs are fewer than stages a cycle works this many times as long as all its loads take one after the other:
rows come out within three times the loads."""

BUFFER_USED = 0.9
"""A buffer counts as full before it blocks: a stage that is blocked would hold its turn for nothing."""


def worth_turns(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, whole: Sequence[int]) -> bool:
    """Tell whether stages should take turns: too few GPUs for one replica each, or whole replicas divide badly."""
    active = [pool.gpus for pool, need in zip(pools, needs, strict=True) if need.most and pool.gpus]
    if not active or not gpus:
        return False
    if gpus < sum(active) or any(need.most and not count for need, count in zip(needs, whole, strict=True)):
        return True
    if not math.isinf(_rows_unread(pools)):
        return False
    pace = [share / need.most for share, need in zip(fluid(needs, gpus), needs, strict=True) if need.most and need.gpus]
    ideal = min(
        need.rate(1) * share for share, need in zip(fluid(needs, gpus), needs, strict=True) if need.most and need.gpus
    )
    return max(pace) < 1 and chain_rate(needs, whole) < WORTH_TURNS * ideal


def _rows_unread(pools: Sequence[PoolView]) -> float:
    return 0.0 if pools[0].upstream_done else math.inf


def take_turns(
    pools: Sequence[PoolView],
    needs: Sequence[Demand],
    capacity: CapacityView,
    room: Slots,
    buffer_rows: int,
    whole: Sequence[int],
) -> list[int]:
    """Return replicas by stage; stages without GPUs keep what `whole` gives them."""
    slots = room.copy()
    full = full_rows(pools, needs, slots.gpus, buffer_rows)
    shares = fluid(needs, slots.gpus)
    found = [0] * len(pools)
    held = [len(serving(pool, capacity)) for pool in pools]
    turns = [_turn(pools, index, full) for index in range(len(pools))]
    for index in hardest_first(pools):
        base = whole[index] if not pools[index].gpus else min(needs[index].most, math.floor(shares[index] + 1e-9))
        _give(pools, slots, found, index, base)
    for index in sorted(range(len(pools)), key=lambda index: -turns[index]):
        if turns[index] > 0:
            _give(pools, slots, found, index, min(held[index], needs[index].most))
    for index in sorted(range(len(pools)), key=lambda index: (-turns[index], -index)):
        if turns[index] > 0:
            _give(pools, slots, found, index, needs[index].most)
    return found


def full_rows(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, buffer_rows: int) -> float:
    """Return the rows before a stage at which its buffer counts as full.

    A cycle that moves B rows takes B x W GPU-seconds, W being those of a row, and every stage whose share is not
    whole loads once in it.
    """
    active = [(pool, need) for pool, need in zip(pools, needs, strict=True) if need.most and pool.gpus]
    work = sum(need.per_row for _, need in active)
    most = BUFFER_USED * buffer_rows
    if not work:
        return most
    if gpus < sum(pool.gpus for pool, _ in active):
        paid = SHORT_CYCLE_LOADS * gpus * sum(pool.load_seconds.value for pool, _ in active)
    else:
        paid = _turning_loads(pools, needs, gpus) / TURN_COST
    return min(most, max(2.0 * max(pool.batch_rows for pool in pools), paid / work))


def _turning_loads(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int) -> float:
    """Return the GPU-seconds in which each stage whose share is not whole loads one replica."""
    return sum(
        pool.load_seconds.value * pool.gpus
        for pool, need, share in zip(pools, needs, fluid(needs, gpus), strict=True)
        if need.most and pool.gpus and not math.isclose(share, round(share), abs_tol=1e-6)
    )


def _turn(pools: Sequence[PoolView], index: int, full: float) -> float:
    """Return how much a stage could do in a turn, in 0 to 1: the lesser of its input and the room behind it."""
    pool = pools[index]
    if pool.done or not pool.gpus:
        return 0.0
    waiting = pool.queued_rows + pool.in_flight_rows
    if index == 0 and not pool.upstream_done:
        waiting = max(waiting, math.ceil(full))
    if not waiting:
        return 0.0
    return max(0.0, min(1.0, waiting / full, _room(pools, index, full)))


def _room(pools: Sequence[PoolView], index: int, full: float) -> float:
    """Return the free part of the buffer behind a stage, in 0 to 1; what is in work there has its place already."""
    if index + 1 == len(pools):
        return 1.0
    return 1.0 - (pools[index + 1].queued_rows + pools[index].in_flight_rows) / full


def _give(pools: Sequence[PoolView], slots: Slots, found: list[int], index: int, wanted: int) -> None:
    found[index] += slots.take_up_to(pools[index], wanted - found[index])
