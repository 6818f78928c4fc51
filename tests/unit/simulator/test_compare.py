"""What is read off a run: who waited without a replica, and where no row came out."""

from __future__ import annotations

import pytest

from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.compare import Series, Unserved, short_windows, unserved
from llmbatch.simulator.study import run
from llmbatch.simulator.virtual import SimulatedStage, Workload

SERIES = Series(
    seconds=[0, 10, 20, 50, 60, 100],
    gpus=[2, 2, 2, 1, 2, 2],
    ready={"a": [1, 0, 1, 0, 1, 1], "b": [0, 0, 0, 0, 0, 1]},
    loading=[0, 0, 0, 0, 0, 0],
    queued={"b": [0, 16, 16, 16, 16, 0]},
    committed=[0, 0, 0, 0, 0, 16],
)


def test_a_stage_waits_from_its_first_row_while_there_are_gpus_for_all() -> None:
    """10 to 50 s and 60 to 100 s: not before a row waits, not while there are fewer GPUs than stages."""
    assert unserved(SERIES, 2) == Unserved(pytest.approx(80 / 90), 40)
    assert unserved(SERIES, 3) == Unserved(0.0, 0.0)


def test_windows_of_the_same_few_nodes() -> None:
    trace = Trace.of([(0, "a"), (50, "b"), (60, "bc"), (70, "b")], 100)
    assert short_windows(trace, SERIES, 2, 20) == (2, 1)
    assert short_windows(trace, SERIES, 2, 40) == (1, 1)
    assert short_windows(trace, SERIES, 1, 5) == (0, 0)


CHAINS = {
    "three": [SimulatedStage("a", 5.0, 20.0), SimulatedStage("b", 15.0, 60.0), SimulatedStage("c", 2.5, 20.0)],
    "five": [SimulatedStage(name, seconds, 30.0) for name, seconds in zip("abcde", (2, 4, 8, 3, 1), strict=True)],
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("gpus", [1, 2])
def test_rows_come_out_within_three_times_the_loads(chain: str, gpus: int) -> None:
    """With fewer GPUs than stages, at the start and hours later."""
    workload = Workload(CHAINS[chain])
    a_round = sum(stage.load_seconds for stage in workload.stages)
    trace = Trace.constant(gpus, 25 * a_round)
    series = run("ours", trace, workload, 0, 1.0).series
    came = [
        seconds
        for seconds, before, rows in zip(series.seconds[1:], series.committed, series.committed[1:], strict=False)
        if rows > before
    ]
    assert (
        max(after - before for before, after in zip([0.0, *came], [*came, trace.end_seconds], strict=True))
        <= 3 * a_round
    )


@pytest.mark.parametrize("chain", CHAINS)
def test_no_stage_is_long_without_a_replica_after_a_loss(chain: str) -> None:
    """A third of many nodes goes again and again: the longest wait is a load and two decisions."""
    counts = [(1200.0 * turn + more, nodes) for turn in range(3) for more, nodes in ((0.0, 18), (600.0, 12))]
    workload = Workload(CHAINS[chain])
    longest = max(stage.load_seconds for stage in workload.stages)
    trace = Trace.counted(counts, 3600, seed=1)
    waited = unserved(run("ours", trace, workload, 1, 1.0).series, len(workload.stages))
    assert waited.longest_seconds <= longest + 10


@pytest.mark.parametrize("chain", CHAINS)
def test_pools_hold_still_where_capacity_does(chain: str) -> None:
    """Loads, of which every one is a switch, take little of a long run of steady capacity; most of it is work."""
    outcome = run("ours", Trace.constant(11, 2 * 3600), Workload(CHAINS[chain]), 0, 1.0)
    assert outcome.share("load") < 0.04
    assert outcome.share("useful") > 0.85
