"""Time and money for rows on a trace that repeats."""

from __future__ import annotations

import math

import pytest

from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import InputError
from llmbatch.simulator.planner import Rounds, estimate

HOUR = 3600.0
# Two nodes of four GPUs in the first half hour, none in the second; 100 rows in round one, 120 in every later one.
TRACE = Trace.counted([(0, 2), (1800, 0)], HOUR, gpus_per_node=4)
POINTS = [
    (0.0, 0.0),
    (900.0, 40.0),
    (1800.0, 100.0),
    (3600.0, 100.0),
    (4500.0, 160.0),
    (5400.0, 220.0),
    (7200.0, 220.0),
]
ROUNDS = Rounds(TRACE, POINTS)


@pytest.mark.parametrize(
    ("rows", "seconds", "node_hours"),
    [
        (1, 900, 0.5),
        (40, 900, 0.5),
        (41, 1800, 1.0),
        (220, 5400, 2.0),
        (221, 2 * HOUR + 900, 2.5),
        (340, 2 * HOUR + 1800, 3.0),
        (220 + 1200, 11 * HOUR + 1800, 12.0),
        (220 + 12_000_000, 100_001 * HOUR + 1800, 100_002.0),
    ],
)
def test_rounds_go_on_like_the_second(rows: int, seconds: float, node_hours: float) -> None:
    found = estimate(ROUNDS, rows, price_per_node_hour=0.5)
    assert found.node_hours == pytest.approx(node_hours)
    assert found.cost == pytest.approx(node_hours / 2)
    assert found.seconds == pytest.approx(seconds)


def test_a_million_rows_have_a_price() -> None:
    assert estimate(ROUNDS, 220, 1.0).cost_per_million(220) == pytest.approx(2.0 / 220 * 1e6)


def test_capacity_that_never_finishes() -> None:
    found = estimate(Rounds(TRACE, [(0.0, 0.0), (7200.0, 0.0)]), 1, 0.5)
    assert (found.seconds, found.node_hours, found.cost) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimate(ROUNDS, 0, 1.0),
        lambda: estimate(ROUNDS, 5, -1.0),
        lambda: estimate(Rounds(Trace.counted([(0, 2)]), POINTS), 5, 1.0),
        lambda: Rounds(TRACE, [(0.0, 5.0), (1.0, 4.0)]),
    ],
)
def test_bad_input(call: object) -> None:
    assert callable(call)
    with pytest.raises(InputError):
        call()
