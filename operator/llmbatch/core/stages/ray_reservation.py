"""Ray Data's own way to divide resources, as a policy: a reserved part each, the rest lent from the end of the chain.

Two phases, as in Ray's ReservationOpResourceAllocator: `ratio` of the GPUs is reserved in equal parts, each clamped
to what one replica needs and to what the stage may have; the shared rest is handed out in reverse topological order,
in equal parts of what is left, and what a stage cannot use goes on to the stage before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmbatch.core.stages.demand import Demand
from llmbatch.core.stages.model import PoolView
from llmbatch.core.stages.slots import Slots


def reserved(pools: Sequence[PoolView], needs: Sequence[Demand], room: Slots, ratio: float) -> list[int]:
    """Return replicas by stage for a reservation `ratio` in 0 to 1."""
    budgets = _budgets(needs, room.gpus, ratio)
    slots = room.copy()
    found = [0] * len(pools)
    wanted = [
        min(need.most, int(budget // need.gpus)) if need.gpus else min(need.most, max(1, pool.min_replicas))
        for pool, need, budget in zip(pools, needs, budgets, strict=True)
    ]
    for index in reversed(range(len(pools))):
        found[index] += slots.take_up_to(pools[index], wanted[index] - found[index])
    for index in reversed(range(len(pools))):
        if pools[index].gpus:
            found[index] += slots.take_up_to(pools[index], needs[index].most - found[index])
    return found


def _budgets(needs: Sequence[Demand], gpus: int, ratio: float) -> list[float]:
    """Return GPUs by stage: the reserved part, and the lent one."""
    active = [index for index, need in enumerate(needs) if need.most and need.gpus]
    budgets = [0.0] * len(needs)
    left = float(gpus)
    for index in active:
        need = needs[index]
        part = min(max(ratio * gpus / len(active), float(need.gpus)), float(need.most * need.gpus), left)
        budgets[index] = part
        left -= part
    for rank, index in reversed(list(enumerate(active))):
        need = needs[index]
        lent = min(left / (rank + 1), need.most * need.gpus - budgets[index])
        budgets[index] += lent
        left -= lent
    return budgets
