"""How long, and for how much money, a number of rows takes on capacity like a trace's.

The trace is simulated twice in a row. What its second round does, every later round is taken to do: that makes 10^9
rows as quick to plan as 10^5. It is a forecast from a recording, not a promise: the seeds show how much the choice of
victims matters, and only more traces show how much the day matters.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import InputError

HOUR = 3600.0


@dataclass(frozen=True)
class Rounds:
    """What one policy did on two rounds of a trace.

    `trace` is one round; `committed` are (seconds, rows committed by then), both rising, from 0 to the end of the
    second round.
    """

    trace: Trace
    committed: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        if any(after < before for step in pairwise(self.committed) for before, after in zip(*step, strict=True)):
            raise InputError.of("committed", "a point", "seconds and rows that never fall")


@dataclass(frozen=True)
class Estimate:
    """A plan: seconds until the last row is committed, hours of nodes paid until then, and their price.

    All are infinite where the capacity never finishes the rows.
    """

    seconds: float
    node_hours: float
    cost: float

    def cost_per_million(self, rows: int) -> float:
        """Return the price of a million rows."""
        return self.cost / rows * 1e6


def estimate(rounds: Rounds, rows: int, price_per_node_hour: float) -> Estimate:
    """Return what `rows` take on a trace that repeats.

    Raises:
        InputError: `rows` or the price is out of range, or the trace has no length.
    """
    if rows < 1:
        raise InputError.of("rows", rows, "at least 1")
    if not price_per_node_hour >= 0:
        raise InputError.of("price", price_per_node_hour, "0 or more, per node and hour")
    if rounds.trace.end_seconds <= 0:
        raise InputError.of("trace length", rounds.trace.end_seconds, "more than 0 s")
    seconds = _finish(rounds, rows)
    hours = _node_hours(rounds.trace, seconds)
    return Estimate(seconds, hours, hours * price_per_node_hour)


def _finish(rounds: Rounds, rows: int) -> float:
    length = rounds.trace.end_seconds
    simulated = rounds.committed[-1][1]
    if rows <= simulated:
        return _reached(rounds, rows)
    first = _committed(rounds, length)
    a_round = simulated - first
    if a_round <= 0:
        return math.inf
    more = rows - simulated
    full = math.ceil(more / a_round) - 1
    return length * (full + 1) + _reached(rounds, first + more - full * a_round)


def _reached(rounds: Rounds, rows: float) -> float:
    """Return when so many rows were committed."""
    return rounds.committed[bisect_left(rounds.committed, rows, key=lambda point: point[1])][0]


def _committed(rounds: Rounds, seconds: float) -> float:
    """Return the rows committed by a time."""
    return max(rows for time, rows in rounds.committed if time <= seconds)


def _node_hours(trace: Trace, seconds: float) -> float:
    if math.isinf(seconds):
        return math.inf
    full, rest = divmod(seconds, trace.end_seconds)
    paid = full * trace.gpu_seconds() + (trace.slice(0, rest).gpu_seconds() if rest else 0.0)
    return paid / trace.gpus_per_node / HOUR
