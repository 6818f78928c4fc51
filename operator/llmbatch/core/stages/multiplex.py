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

WORTH_TURNS = 0.95
"""Stages take turns where whole replicas reach less than this share of what fractions would."""
CYCLE_LOADS = 10.0
"""A cycle of turns works this many times as long as it loads."""
SHORT_CYCLE_LOADS = 1.5
"""The same where GPUs are fewer than stages: rows come out within three times the loads."""

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
    buffer_rows: int,
    whole: Sequence[int],
) -> list[int]:
    """Return replicas by stage; stages without GPUs keep what `whole` gives them."""
    slots = Slots(capacity)
    full = full_rows(pools, needs, slots.gpus, buffer_rows)
    shares = fluid(needs, slots.gpus)
    found = [0] * len(pools)
    held = [len(serving(pool, capacity)) for pool in pools]
    turns = [_turn(pools, index, full) for index in range(len(pools))]
    for index in hardest_first(pools):
        base = whole[index] if not pools[index].gpus else min(needs[index].most, math.floor(shares[index] + 1e-9))
        _give(pools, slots, found, index, max(base, _bound(pools[index])))
    for index in sorted(range(len(pools)), key=lambda index: -turns[index]):
        if turns[index] > 0:
            _give(pools, slots, found, index, min(held[index], needs[index].most))
    for index in sorted(range(len(pools)), key=lambda index: (-turns[index], -index)):
        if turns[index] > 0:
            _give(pools, slots, found, index, needs[index].most)
    return found


def full_rows(pools: Sequence[PoolView], needs: Sequence[Demand], gpus: int, buffer_rows: int) -> float:
    """Return the rows before a stage at which its buffer counts as full.

    A cycle that moves B rows works B x W / GPUs seconds and loads the sum of the loads, W being the GPU-seconds a
    row: B makes the one a multiple of the other.
    """
    active = [(pool, need) for pool, need in zip(pools, needs, strict=True) if need.most and pool.gpus]
    loads = sum(pool.load_seconds.value for pool, _ in active)
    work = sum(need.per_row for _, need in active)
    cycle = SHORT_CYCLE_LOADS if gpus < sum(pool.gpus for pool, _ in active) else CYCLE_LOADS
    batch = max(pool.batch_rows for pool in pools)
    most = BUFFER_USED * buffer_rows
    return min(most, max(2.0 * batch, cycle * loads * gpus / work)) if work else most


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


def _bound(pool: PoolView) -> int:
    """Return the replicas that start again with rows bound to them: nobody else can do those."""
    return sum(replica.state == "restarting" and replica.in_flight_rows > 0 for replica in pool.replicas)


def _give(pools: Sequence[PoolView], slots: Slots, found: list[int], index: int, wanted: int) -> None:
    while found[index] < wanted and slots.take(pools[index]):
        found[index] += 1
