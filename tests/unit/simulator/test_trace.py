"""Capacity traces: what is there when, and every format that is published."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.capacity.trace import Change, Lifetime, Trace
from llmbatch.core.capacity.trace_formats import parse_trace
from llmbatch.errors import InputError
from llmbatch.simulator.trace import read_trace

counts = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 9)), min_size=1, max_size=20, unique_by=lambda step: step[0]
).map(sorted)

unhurried = settings(deadline=None)

CSV = "# a comment\ntime_seconds,nodes\n0,3\n60,1\n\n90.5,2\n120,2\n"
NAMES = "time_seconds,nodes\n0,a;b\n60,b\n90,\n120,b;c\n"
BAMBOO = "0,add,node1\r\n0,add,node2\r\n60000,remove,node1\r\n120000,add,node3\r\n"
PARCAE = """[0, "add", {"nodes": ["node-0", "node-1"], "duration": 60000, "liveput_truth_strategy": [8, 2]}]
[60000, "no-op", {"nodes": [], "duration": 60000}]
[120000, "remove", {"nodes": ["node-0"], "duration": 60000}]
[180000, "migration", {"nodes": [], "duration": 60000}]
"""
CLOCK = "2021-12-11, 23:59:30, 5\n2021-12-12, 00:00:30, 5\n2021-12-12, 00:01:30, 3\n"


def sizes(trace: Trace) -> list[tuple[float, int]]:
    return [(seconds, len(nodes)) for seconds, nodes in trace.events]


def test_a_csv_of_counts() -> None:
    trace = parse_trace(CSV, gpus_per_node=4)
    assert sizes(trace) == [(0, 3), (60, 1), (90.5, 2)]
    assert trace.end_seconds == 120
    assert trace.gpu_seconds() == 4 * (3 * 60 + 1 * 30.5 + 2 * 29.5)
    assert (trace.gpus_at(59.9), trace.gpus_at(60), trace.gpus_at(1e9), trace.most_gpus) == (12, 4, 8, 12)


def test_a_csv_of_names() -> None:
    trace = parse_trace(NAMES)
    assert trace.events == ((0, {"a", "b"}), (60, {"b"}), (90, frozenset()), (120, {"b", "c"}))
    assert list(trace.changes())[1:] == [Change(60, (), ("a",)), Change(90, (), ("b",)), Change(120, ("b", "c"), ())]
    assert Lifetime("b", 0, 90, removed=True) in trace.lifetimes()
    assert Lifetime("b", 120, 120, removed=False) in trace.lifetimes()


def test_bamboo_instances_keep_their_names() -> None:
    trace = parse_trace(BAMBOO)
    assert trace.events == ((0, {"node1", "node2"}), (60, {"node2"}), (120, {"node2", "node3"}))


def test_instances_that_come_late_leave_the_start_empty() -> None:
    assert sizes(parse_trace("480000,add,node1\n540000,add,node2\n")) == [(0, 0), (480, 1), (540, 2)]


def test_a_parcae_segment_ends_after_its_last_step() -> None:
    trace = parse_trace(PARCAE)
    assert trace.events == ((0, {"node-0", "node-1"}), (120, {"node-1"}))
    assert trace.end_seconds == 240


def test_clock_samples_count_from_the_first() -> None:
    trace = parse_trace(CLOCK)
    assert sizes(trace) == [(0, 5), (120, 3)]
    assert trace.end_seconds == 120


def test_a_later_clock_line_corrects_earlier_ones() -> None:
    text = "2021-12-10, 13:08:00, 80\n2021-12-10, 13:10:00, 80\n2021-12-10, 13:09:00, 70\n2021-12-10, 13:11:00, 70\n"
    assert sizes(parse_trace(text)) == [(0, 80), (60, 70)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,4\n90,2\n180,6\n", [(0, 4), (90, 2), (180, 6)]),
        ("0,1\n0,2\n60000,1\n40800000,2\n", [(0, 2), (60, 1), (40800, 2)]),
        ("0.000,0\n0.500,0\n0.500,9\n1.250,9\n1.250,2\n", [(0, 0), (1800, 9), (4500, 2)]),
        ("0.000,4\n0.500,2\n1.250,6\n", [(0, 4), (0.5, 2), (1.25, 6)]),
    ],
    ids=["seconds", "milliseconds", "hours of a plot", "seconds with decimals"],
)
def test_counts_without_a_header(text: str, expected: list[tuple[float, int]]) -> None:
    assert sizes(parse_trace(text)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "t.csv: ''"),
        ("# only this\n", "t.csv: ''"),
        ("time,gpus\n0,1\n", "t.csv:1: 'time,gpus'"),
        ("time_seconds,nodes\n", "t.csv:1: .*at least one line below"),
        ("time_seconds,nodes\n0,1\n5\n", "t.csv:3: '5': two fields"),
        ("time_seconds,nodes\n0,1\n-5,1\n", "t.csv:3: '-5,1': the time must be a number"),
        ("time_seconds,nodes\n0,1\n9,1\n5,1\n", "t.csv:4: '5,1': a time not before"),
        ("time_seconds,nodes\n0,-1\n", "t.csv:2: '0,-1': names"),
        ("time_seconds,nodes\n0,a;b\n5,2\n", "t.csv:3: '5,2': names joined by ';' in every line, or a count"),
        ("time_seconds,nodes\n0,a;a\n", "t.csv:2: '0,a;a': each node once"),
        ("0,1\n5,x\n", "t.csv:2: '5,x': the nodes must be a count"),
        ("0,add,a\n5,add,a\n", "t.csv:2: '5,add,a': 'add' of a node that is not there"),
        ("0,add,a\n5,remove,b\n", "t.csv:2: '5,remove,b'"),
        ("0,add,a\n5,drop,a\n", "t.csv:2: '5,drop,a'"),
        ("5,add,a\n0,add,b\n", "t.csv:2: '0,add,b': a time not before"),
        ('[0, "add", {"nodes": ["a"]}]\n[5, "add"\n', "t.csv:2: .*"),
        ('[0, "add", {"nodes": "a"}]\n', "t.csv:1: .*milliseconds"),
        ("2021-12-11, 25:00:00, 5\n", "t.csv:1: .*YYYY-MM-DD"),
        ("2021-12-11, 12:00:00, many\n", "t.csv:1: .*count"),
    ],
)
def test_bad_input_is_told_by_file_and_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_trace(text, "t.csv")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv"):
        read_trace(tmp_path / "none.csv")


def test_a_file_is_read_like_its_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(CSV)
    assert read_trace(path, gpus_per_node=2, seed=3) == parse_trace(CSV, gpus_per_node=2, seed=3)


@pytest.mark.parametrize(
    "build", [lambda: Trace.of([]), lambda: Trace.constant(1, 60, 0), lambda: Trace.of([(-1, "a")])]
)
def test_a_trace_that_cannot_be(build: object) -> None:
    assert callable(build)
    with pytest.raises(InputError):
        build()


def test_the_newest_node_leaves_first() -> None:
    trace = Trace.counted([(0, 2), (10, 4), (20, 3), (30, 1)], victims="newest")
    assert [change.removed for change in trace.changes()] == [(), (), ("node-3",), ("node-1", "node-2")]


def test_random_victims_depend_on_the_seed_alone() -> None:
    steps = [(0, 20), (10, 10), (20, 20), (30, 10)]
    assert Trace.counted(steps, seed=1) == Trace.counted(steps, seed=1)
    assert len({Trace.counted(steps, seed=seed) for seed in range(8)}) == 8


@unhurried
@given(counts, st.integers(0, 3), st.sampled_from(["newest", "random"]))
def test_placing_keeps_the_counts(steps: list[tuple[int, int]], seed: int, victims: str) -> None:
    trace = Trace.counted(steps, seed=seed, victims=victims)  # type: ignore[arg-type]
    for seconds, nodes in steps:
        assert len(trace.at(seconds)) == nodes
    for before, after in pairwise(trace.events):
        assert before[1] <= after[1] or before[1] >= after[1], "a change of the count moves nodes one way"


@unhurried
@given(counts)
def test_windows_and_lifetimes_hold_all_gpu_seconds(steps: list[tuple[int, int]]) -> None:
    trace = Trace.counted(steps, 600, gpus_per_node=2)
    stays = sum(stay.end - stay.start for stay in trace.lifetimes())
    assert trace.gpu_seconds() == pytest.approx(2 * stays)
    windows = list(trace.windows())
    assert (windows[0].start, windows[-1].end) == (0, 600)
    assert all(before.end == after.start for before, after in pairwise(windows))


@unhurried
@given(counts, st.integers(0, 599), st.integers(1, 600))
def test_a_slice_is_the_trace_shifted(steps: list[tuple[int, int]], start: int, length: int) -> None:
    trace = Trace.counted(steps, 600)
    end = min(600, start + length)
    part = trace.slice(start, end)
    assert part.end_seconds == end - start
    for seconds in range(0, end - start, 7):
        assert part.at(seconds) == trace.at(start + seconds)


def test_a_slice_outside_the_trace() -> None:
    with pytest.raises(InputError, match="600"):
        Trace.constant(1, 600).slice(500, 700)


@unhurried
@given(counts, st.integers(0, 2000))
def test_a_repeated_trace_has_the_same_counts(steps: list[tuple[int, int]], end: int) -> None:
    trace = Trace.counted(steps, 600)
    again = trace.repeated(end)
    assert again.end_seconds == end
    for seconds in range(0, end, 37):
        assert len(again.at(seconds)) == len(trace.at(seconds % 600))


def test_going_round_preempts_only_what_the_counts_say() -> None:
    again = Trace.counted([(0, 4), (100, 6)], 200).repeated(400)
    assert [len(change.removed) for change in again.changes()] == [0, 0, 2, 0]


def test_a_trace_without_length_cannot_be_repeated() -> None:
    with pytest.raises(InputError, match="length"):
        Trace.counted([(0, 4)]).repeated(60)
