"""The simulated world: every GPU-second has a place, every row comes out, and nothing beats the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.capacity.trace import Trace
from llmbatch.core.stages.delays import Delays
from llmbatch.errors import InputError
from llmbatch.simulator.baselines import Fixed, split
from llmbatch.simulator.oracle import bounds
from llmbatch.simulator.study import POLICIES, constant, oracle_stages, plan, run
from llmbatch.simulator.virtual import SimulatedStage, Workload, World

CHAIN = [SimulatedStage("a", 1.0, 10.0), SimulatedStage("b", 3.0, 20.0), SimulatedStage("c", 0.5, 10.0)]
SIX_TWO_SIX = Trace.counted([(0, 6), (90, 2), (180, 6)], 300)
names = pytest.mark.parametrize("name", POLICIES)


def world(name: str, trace: Trace, workload: Workload, rows: int | None = None, seed: int = 0) -> World:
    return World(trace, workload, POLICIES[name](trace, workload), seed=seed, rows=rows)


def test_one_stage_does_what_its_gpus_pay_for() -> None:
    """Four GPUs, 10 s of load, 90 s of work in batches of 2 s and 16 rows: 4 x 90 / 2 x 16 rows, less what is cut."""
    done = world("fixed", Trace.constant(4, 100), Workload([SimulatedStage("a", 2.0, 10.0)])).run()
    assert done.spent["load"] == 40
    assert done.spent["useful"] == pytest.approx(360)
    assert 2880 * 0.95 < done.rows <= 2880


@names
def test_an_input_ends_with_all_its_rows(name: str) -> None:
    done = world(name, SIX_TWO_SIX.repeated(6000), Workload(CHAIN), rows=8000).run()
    assert done.rows == 8000
    assert done.series.committed[-1] == 8000
    assert done.seconds < 6000


@st.composite
def chains(draw: st.DrawFn, widest: int = 1) -> list[SimulatedStage]:
    stage = st.builds(SimulatedStage, st.just("a"), st.floats(0.2, 9.0), st.floats(3.0, 60.0), st.integers(1, widest))
    return draw(st.lists(stage, min_size=2, max_size=5))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), chains(), st.integers(1, 300), st.sampled_from([20, 125]))
def test_every_job_ends_however_few_gpus_its_stages_take_turns_on(
    gpus: int, stages: list[SimulatedStage], batches: int, buffer: int
) -> None:
    workload = Workload(stages, buffer_batches=buffer)
    assert world("ours", Trace.constant(gpus, 60_000), workload, rows=16 * batches).run().rows == 16 * batches


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(1, 300), st.data())
def test_every_job_ends_whose_gangs_fill_the_one_node_there_is(gpus: int, batches: int, data: st.DataObject) -> None:
    workload = Workload(data.draw(chains(widest=gpus)))
    trace = Trace.constant(1, 60_000, gpus_per_node=gpus)
    assert world("ours", trace, workload, rows=16 * batches).run().rows == 16 * batches


def test_turns_beside_a_gang_cost_few_loads() -> None:
    """A small replica that stays for good would let the gang in for a batch at a time, with a load each."""
    stages = [SimulatedStage("gang", 3.0, 60.0, 2), SimulatedStage("a", 0.2, 60.0), SimulatedStage("b", 9.0, 30.0)]
    done = world("ours", Trace.constant(1, 60_000, gpus_per_node=2), Workload(stages), rows=16 * 99).run()
    assert done.rows == 16 * 99
    assert done.spent["load"] < done.spent["useful"]


@names
def test_a_lost_batch_is_counted_as_redo_and_done_again(name: str) -> None:
    trace = Trace.counted([(0, 6), (100, 3), (101, 6)], 5000)
    done = world(name, trace, Workload(CHAIN), rows=4000).run()
    assert done.rows == 4000
    assert 0 < done.spent["redo"] <= 6 * 3.0 * 1.2


def test_a_late_drain_loses_no_batch_that_the_notice_covers() -> None:
    class Late(Fixed):
        late_drain = True

    trace = Trace.counted([(0, 6), (100, 3), (200, 6), (300, 1)], 400)
    for notice, lost in ((0.0, True), (4.0, False), (30.0, False)):
        done = World(trace, Workload(CHAIN, notice_seconds=notice), Late(trace, CHAIN)).run()
        assert (done.spent["redo"] > 0) == lost


@names
def test_the_seed_decides_the_luck(name: str) -> None:
    runs = [world(name, SIX_TWO_SIX, Workload(CHAIN), seed=seed).run() for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ("gpus", "sizes", "expected"),
    [(9, (1, 1, 1), [2, 6, 1]), (3, (1, 1, 1), [1, 1, 1]), (2, (1, 1, 1), [1, 1, 0]), (16, (1, 2, 1), [3, 6, 1])],
)
def test_a_split_helps_the_slowest_stage(gpus: int, sizes: tuple[int, ...], expected: list[int]) -> None:
    stages = [SimulatedStage(stage.name, stage.service_seconds, 0.0, k) for stage, k in zip(CHAIN, sizes, strict=True)]
    assert split(gpus, stages) == expected


def test_pools_sized_for_the_most_gpus_starve_the_last_stage_when_few_are_there() -> None:
    trace = Trace.counted([(0, 24), (60, 0), (70, 10)], 2000)
    workload = Workload([SimulatedStage(stage.name, stage.service_seconds, 10.0) for stage in CHAIN])
    assert world("fixed", trace, workload).run().rows < world("restart-all", trace, workload).run().rows / 2


ONE = [SimulatedStage("a", 2.0, 10.0)]


def test_processes_that_start_share_the_cores() -> None:
    """Four starts of 3 s on two cores take 6 s, three at a time 4.5 s and the last one 3 s more; loads are apart."""
    trace = Trace.constant(4, 100)
    shared = Delays(start_seconds=3.0, cores=2)
    one_by_one = Delays(start_seconds=3.0, cores=2, most_starting=3)
    own = Delays(start_seconds=3.0)
    starts = [world("ours", trace, Workload(ONE, delays=delays)).run().spent for delays in (own, shared, one_by_one)]
    assert [spent["load"] for spent in starts] == pytest.approx([4 * 13.0, 4 * 16.0, 3 * 14.5 + 13.0])


def test_nothing_starts_before_the_run_has_begun() -> None:
    spent = world("ours", Trace.constant(4, 100), Workload(ONE, delays=Delays(begin_seconds=20.0))).run().spent
    assert spent["unallocated"] == pytest.approx(4 * 20)


def test_nodes_that_come_are_there_one_after_another() -> None:
    trace = Trace.counted([(0, 1), (50, 4)], 100)
    spent = world("ours", trace, Workload(ONE, delays=Delays(join_seconds=3.0))).run().spent
    assert spent["unallocated"] == pytest.approx(3 + 6 + 9)


def test_the_batches_of_a_lost_node_wait_until_the_loss_is_noticed() -> None:
    trace = Trace.counted([(0, 2), (11, 1)], 100)
    soon, late = (
        world("ours", trace, Workload(ONE, delays=Delays(loss_seconds=seconds)), rows=32).run() for seconds in (0, 30)
    )
    assert soon.seconds == pytest.approx(14, abs=1)
    assert late.seconds > 11 + 30


steps = st.lists(
    st.tuples(st.integers(0, 250), st.integers(0, 8)), min_size=1, max_size=6, unique_by=lambda step: step[0]
).map(sorted)


@settings(max_examples=25, deadline=None)
@given(
    steps,
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 30.0]),
    st.integers(0, 3),
    st.builds(
        Delays,
        begin_seconds=st.sampled_from([0.0, 5.0]),
        start_seconds=st.sampled_from([0.0, 3.0]),
        cores=st.sampled_from([None, 2]),
        most_starting=st.sampled_from([None, 3]),
        join_seconds=st.sampled_from([0.0, 2.0]),
        loss_seconds=st.sampled_from([0.0, 13.0, 400.0]),
    ),
)
def test_gpu_seconds_add_up_and_no_policy_beats_the_bound(
    found: list[tuple[int, int]], name: str, gpus: int, notice: float, seed: int, delays: Delays
) -> None:
    trace = Trace.counted(found, 300, gpus_per_node=gpus, seed=seed)
    workload = Workload(CHAIN[:2], notice_seconds=notice, delays=delays)
    bound = bounds(trace, oracle_stages(workload, trace.most_gpus)).clairvoyant
    outcome = run(name, trace, workload, seed, bound)
    assert sum(outcome.spent.values()) == pytest.approx(trace.gpu_seconds())
    assert not outcome.failed
    held = [outcome.series.ready["a"], outcome.series.ready["b"], outcome.series.loading]
    for there, *parts in zip(outcome.series.gpus, *held, strict=True):
        assert sum(parts) <= there


def test_a_plan_goes_on_where_the_simulation_ends() -> None:
    workload = Workload([SimulatedStage(stage.name, 8 * stage.service_seconds, 10.0) for stage in CHAIN], 128)
    steady = constant(9, SIX_TWO_SIX)
    few, many = (plan("fixed", "spot", [steady], workload, rows, 2.0).estimates[0] for rows in (10_000, 10_000_000))
    rate = 2 / 1.0 * 16
    assert few.seconds == pytest.approx(10_000 / rate, rel=0.2)
    assert many.seconds == pytest.approx(10_000_000 / rate, rel=0.02)
    assert many.node_hours == pytest.approx(9 * many.seconds / 3600)
    assert many.cost == pytest.approx(2 * many.node_hours)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SimulatedStage("a", 0.0, 1.0),
        lambda: SimulatedStage("a", 1.0, -1.0),
        lambda: SimulatedStage("a", 1, 1, 0),
    ],
)
def test_a_stage_that_cannot_be(build: object) -> None:
    assert callable(build)
    with pytest.raises(InputError, match="of a"):
        build()
