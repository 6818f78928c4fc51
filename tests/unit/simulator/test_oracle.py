"""The bounds: known answers, and no schedule above them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import InputError
from llmbatch.simulator.oracle import (
    OracleStage,
    bounds,
    efficiency,
    least_seconds,
    loaded_rows,
    most_rows,
    paid_rows,
    pinned_rate,
    pinned_rows,
    step_seconds,
    whole_rows,
)

CHAIN = [OracleStage(1.0), OracleStage(3.0), OracleStage(0.5)]
close = pytest.approx


def one(weight: float, load: float = 0.0) -> list[OracleStage]:
    return [OracleStage(weight, load)]


def test_one_stage_uses_all_gpu_seconds() -> None:
    assert most_rows(Trace.constant(4, 100), one(2.0)) == close(200)


def test_one_stage_loses_its_load_once() -> None:
    assert most_rows(Trace.constant(4, 100), one(2.0, 10.0)) == close(4 * 90 / 2)


def test_a_gap_costs_a_second_load() -> None:
    trace = Trace.counted([(0, 3), (40, 0), (60, 3)], 100)
    assert most_rows(trace, one(1.0, 10.0)) == close(3 * (30 + 30))


def test_a_node_that_stays_shorter_than_the_load_is_worth_nothing() -> None:
    assert most_rows(Trace.counted([(0, 5), (9, 0), (50, 0)]), one(1.0, 10.0), dt=1.0) == close(0, abs=1e-6)


def test_a_chain_without_loads_reaches_the_paid_rows() -> None:
    trace = Trace.counted([(0, 6), (90, 2), (180, 6)], 300)
    assert paid_rows(trace, CHAIN) == close((6 * 90 + 2 * 90 + 6 * 120) / 4.5)
    assert most_rows(trace, CHAIN, dt=1.0) == close(paid_rows(trace, CHAIN), rel=1e-6)


def test_a_chain_with_one_load_time_pays_it_once_a_gpu() -> None:
    stages = [OracleStage(1.0, 10.0), OracleStage(3.0, 10.0)]
    assert most_rows(Trace.constant(8, 200), stages, dt=2.0) == close(8 * 190 / 4)


def test_a_chain_with_two_load_times() -> None:
    """No switch pays a load twice, so w1 r = g1 (T - L1), w2 r = g2 (T - L2) and g1 + g2 = C."""
    stages = [OracleStage(1.0, 10.0), OracleStage(3.0, 40.0)]
    expected = 8 / (1.0 / (200 - 10) + 3.0 / (200 - 40))
    assert most_rows(Trace.constant(8, 200), stages, dt=10.0) == close(expected)


def test_without_a_buffer_the_first_stage_waits_for_the_second() -> None:
    stages = [OracleStage(1.0, 10.0, buffer_rows=0.0), OracleStage(1.0, 50.0)]
    assert most_rows(Trace.constant(2, 100), stages, dt=5.0) == close(50)


def test_at_most_the_replicas_allowed() -> None:
    stages = [OracleStage(2.0, gpus=2, max_replicas=3)]
    assert most_rows(Trace.constant(100, 10), stages) == close(3 * 2 * 10 / 2)


def test_at_most_the_rows_there_are() -> None:
    assert most_rows(Trace.constant(4, 100), CHAIN, rows=17.0, dt=5.0) == close(17)
    assert bounds(Trace.constant(4, 100), one(1.0), rows=17.0).paid == 17


def test_the_least_time_for_some_rows() -> None:
    found = least_seconds(Trace.constant(4, 1000), one(2.0, 60.0), rows=500)
    exact = 60 + 500 * 2.0 / 4
    assert exact * 0.99 < found <= exact


def test_rows_that_the_trace_cannot_finish() -> None:
    assert least_seconds(Trace.constant(4, 100), one(1.0), rows=401) == math.inf


@pytest.mark.parametrize(
    ("gpus", "share"),
    [(2, 0.0), (3, 0.50), (4, 0.75), (6, 0.75), (8, 0.94), (10, 0.90), (12, 0.88), (16, 0.94), (24, 0.94), (32, 0.98)],
)
def test_whole_replicas_that_never_switch(gpus: int, share: float) -> None:
    assert pinned_rate(gpus, CHAIN) * 4.5 / gpus == close(share, abs=0.006)


def test_whole_replicas_over_a_trace() -> None:
    trace = Trace.counted([(0, 3), (100, 2), (200, 4)], 300)
    assert pinned_rows(trace, CHAIN) == close(100 / 3 + 0 + 200 / 3)


def test_whole_replicas_reach_by_turns_what_fractions_reach_at_once() -> None:
    trace = Trace.constant(2, 60)
    at_once = [OracleStage(1.0, buffer_rows=0), OracleStage(2.0)]
    assert most_rows(trace, at_once, dt=1.0) == close(40)
    assert whole_rows(trace, at_once, dt=1.0) == close(30)
    assert whole_rows(trace, [OracleStage(1.0), OracleStage(2.0)], dt=1.0) == close(40, rel=0.02)


def test_whole_replicas_pay_a_load_for_each_turn() -> None:
    stages = [OracleStage(1.0, 5.0), OracleStage(1.0, 5.0)]
    assert whole_rows(Trace.constant(1, 60), stages, dt=5.0) == close((60 - 2 * 5) / 2)


def test_the_newest_leave_first_when_loads_are_paid() -> None:
    """By names both nodes stay short; by counts one could have stayed all the time."""
    trace = Trace.of([(0, {"a"}), (50, {"a", "b"}), (60, {"b"})], 100)
    assert loaded_rows(trace, one(1.0, 20.0)) == close(110 - 20 - 10)


def test_a_share_above_one_is_no_measurement() -> None:
    assert efficiency(101, 100).failed
    assert str(efficiency(101, 100)) == "failed (1.010)"
    assert efficiency(5, 0).failed
    assert efficiency(math.nan, 100).failed
    assert not efficiency(100.00001, 100).failed
    assert str(efficiency(95, 100)) == "0.950"
    assert not efficiency(0, 0).failed


@pytest.mark.parametrize(
    "build",
    [
        lambda: OracleStage(0.0),
        lambda: OracleStage(1.0, -1.0),
        lambda: OracleStage(math.nan),
        lambda: OracleStage(1.0, gpus=0),
        lambda: most_rows(Trace.constant(1, 10), []),
        lambda: whole_rows(Trace.constant(1, 10), [OracleStage(1.0, gpus=2)]),
        lambda: bounds(Trace.counted([(0, 1)]), CHAIN),
    ],
)
def test_bad_input(build: object) -> None:
    assert callable(build)
    with pytest.raises(InputError):
        build()


@pytest.mark.parametrize(
    ("end", "loads", "step"),
    [
        (40_000, (30, 60, 30), 30),
        (40_000, (300, 300, 300), 30),
        (300, (3, 3, 3), 0.3),
        (100_000, (30, 60, 30), 30),
        (600_000, (30, 60, 30), 100),
        (1500, (0, 0, 0), 1),
        (4000, (20, 50, 0), 10 / 3),
    ],
)
def test_steps_divide_the_loads_and_stay_few(end: float, loads: tuple[float, ...], step: float) -> None:
    stages = [OracleStage(1.0, load) for load in loads]
    assert step_seconds(Trace.constant(1, end), stages) == close(step)


steps = st.lists(
    st.tuples(st.floats(0, 300), st.integers(0, 5)), min_size=1, max_size=6, unique_by=lambda step: step[0]
).map(sorted)
few = settings(max_examples=25, deadline=None)


@few
@given(steps, st.integers(0, 4), st.sampled_from([0.0, 7.0, 20.0, 90.0]))
def test_no_placing_of_one_stage_beats_the_bound(found: list[tuple[float, int]], seed: int, load: float) -> None:
    """A replica on every node from its first second: its rows are what its stays leave after the load."""
    trace = Trace.counted(found, 330, seed=seed)
    rows = sum(max(0.0, stay.end - stay.start - load) for stay in trace.lifetimes()) / 2.0
    best = bounds(trace, one(2.0, load))
    assert rows <= best.clairvoyant * (1 + 1e-6) + 1e-6
    assert best.clairvoyant <= best.loaded <= best.paid


@few
@given(steps, st.sampled_from([(10.0, 20.0), (10.0, 10.0)]))
def test_a_finer_step_never_raises_the_bound(found: list[tuple[float, int]], loads: tuple[float, float]) -> None:
    trace = Trace.counted(found, 330)
    stages = [OracleStage(1.0, loads[0], buffer_rows=20.0), OracleStage(2.0, loads[1])]
    results = [most_rows(trace, stages, dt=dt) for dt in (10.0, 5.0)]
    assert all(finer <= coarser + 1e-6 for coarser, finer in pairwise(results))


@few
@given(steps, st.integers(1, 3))
def test_more_gpus_never_lower_the_bound(found: list[tuple[float, int]], more: int) -> None:
    stages = [OracleStage(1.0, 10.0), OracleStage(2.0, 30.0)]
    larger = [(seconds, nodes + more) for seconds, nodes in found]
    less = most_rows(Trace.counted(found, 330), stages, dt=10.0)
    assert less <= most_rows(Trace.counted(larger, 330), stages, dt=10.0) + 1e-6
