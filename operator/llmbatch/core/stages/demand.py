"""What each stage has to do for a row of the job, and how fast a number of replicas lets the chain go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmbatch.core.stages.model import PoolView

LEAST_SERVICE = 1e-9
"""GPU-seconds a row below which a stage counts as free of charge."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One stage's need.

    `per_row` is in GPU-seconds for every row that the job will still finish: near the end a stage that has fewer
    rows left than the one behind it needs less. `most` replicas can be busy; both are 0 when nothing is left.
    """

    per_row: float
    most: int
    gpus: int

    def rate(self, replicas: int) -> float:
        """Return the rows a second that so many replicas let through; infinite where nothing is left to do."""
        return replicas * max(1, self.gpus) / self.per_row if self.per_row else math.inf


def demands(pools: Sequence[PoolView]) -> list[Demand]:
    """Return the need of each stage of a chain."""
    left = _rows_left(pools)
    whole = max(left[-1], 1)
    return [_demand(pool, rows, whole) for pool, rows in zip(pools, left, strict=True)]


def _rows_left(pools: Sequence[PoolView]) -> list[float]:
    """Return the rows that each stage has before it, in all; infinite while the input is not read to its end."""
    if not pools[0].upstream_done:
        return [math.inf] * len(pools)
    return list(accumulate(float(pool.queued_rows + pool.in_flight_rows) for pool in pools))


def _demand(pool: PoolView, rows: float, whole: float) -> Demand:
    if pool.done or rows == 0:
        return Demand(0.0, 0, pool.gpus)
    service = max(pool.service.value, LEAST_SERVICE)
    if math.isinf(rows):
        return Demand(service, pool.max_replicas, pool.gpus)
    batches = math.ceil(rows / max(1, pool.batch_rows))
    return Demand(service * rows / whole, min(pool.max_replicas, batches), pool.gpus)


def chain_rate(needs: Sequence[Demand], counts: Sequence[int]) -> float:
    """Return the rows a second of the slowest stage."""
    return min(need.rate(count) for need, count in zip(needs, counts, strict=True))


def fluid(needs: Sequence[Demand], gpus: int, least: Sequence[int] = ()) -> list[float]:
    """Return the fractional replicas that make the slowest stage of a chain fastest: GPUs in proportion to need.

    No stage gets less than its `least`, so the others share what is left. Stages that cannot use their share leave
    the rest to nobody: the slowest stage sets the pace.
    """
    floors = least or [0] * len(needs)
    sharing = [index for index, need in enumerate(needs) if need.gpus and need.per_row]
    left = gpus - sum(floor * need.gpus for floor, need in zip(floors, needs, strict=True))
    pace = math.inf
    while sharing:
        held = sum(floors[index] * needs[index].gpus for index in sharing)
        pace = max(0.0, left + held) / sum(needs[index].per_row for index in sharing)
        below = [index for index in sharing if needs[index].rate(floors[index]) > pace]
        if not below:
            break
        sharing = [index for index in sharing if index not in below]
    pace = min([pace, *(need.rate(need.most) for need in needs)])
    return [
        max(floor, pace * need.per_row / max(1, need.gpus)) if need.per_row else float(floor)
        for floor, need in zip(floors, needs, strict=True)
    ]


def useful_gpus(needs: Sequence[Demand]) -> int:
    """Return the GPUs beyond which the chain gets no faster: the slowest stage has all the replicas it may have."""
    pace = min(need.rate(need.most) for need in needs)
    if math.isinf(pace):
        return 0
    # Less a hair, so that a share that is whole but for its rounding is not rounded up.
    return sum(
        min(need.most, math.ceil(pace * need.per_row / need.gpus - 1e-9)) * need.gpus for need in needs if need.gpus
    )
