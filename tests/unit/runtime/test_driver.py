"""How the driver takes in what earlier attempts committed while new results arrive. No Ray is started."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.data._internal.util import _annotate_exception_with_retry_context

from jobs import job
from ledgerkit import table_of
from llmbatch.api.capacity import Capacity
from llmbatch.api.progress import Drains, Progress
from llmbatch.api.runspec import run_spec
from llmbatch.errors import ErrorRateError, InputError, InternalError
from llmbatch.runtime import driver
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.embedded import RunOptions
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.pipeline import ShardResult
from llmbatch.runtime.pools.actors import PoolSample
from llmbatch.runtime.pools.arbiter import Decision
from llmbatch.runtime.pools.watch import ExecutionSample
from llmbatch.runtime.records import Commit, Manifest
from llmbatch.runtime.shards import SPLIT_BYTES, InputFile, ShardKey
from llmbatch.runtime.uniqueids import UniqueIds

ROWS = 1_000


def commit(seq: int, failed: int = 0) -> Commit:
    key = ShardKey(file=0, split=0, seq=seq, end=(seq + 1) * ROWS, rows=ROWS, last=False)
    return Commit(
        shard=str(key),
        attempt="0" * 32,
        data=f"data/{key}",
        size=1,
        sha256="0" * 64,
        rows=ROWS,
        failed=failed,
        worker="w",
    )


def result(seq: int, failed: int = 0) -> ShardResult:
    return ShardResult(commit(seq, failed), won=True, tokens=(0,))


@pytest.fixture
def attempt(tmp_path: Path) -> Any:
    """An attempt that may fail one row in twenty-five, before its first result."""
    spec = run_spec(job(tmp_path, failurePolicy={"maxErrorRate": 0.04}))
    made = driver._Attempt(spec, shown.append, threading.Event(), Desired(), RunOptions())
    made.ledger = Ledger.open(spec.spec.output, spec.spec_hash, spec.job)
    made.ids = UniqueIds(made.ledger, Manifest(spec.spec_hash, ROWS, SPLIT_BYTES, ()), spec.spec.input)
    made.counted = False
    shown.clear()
    return made


shown: list[Progress] = []


def follow(attempt: Any, *items: Any) -> bool:
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    return bool(attempt._follow(waiting))


def test_earlier_commits_count_whenever_they_are_read(attempt: Any) -> None:
    follow(attempt, (commit(0),), [result(2)], "new", (commit(1),), "earlier")
    assert (attempt.tally.rows, attempt.tally.new_rows, attempt.tally.shards) == (3 * ROWS, ROWS, 3)
    assert shown[-1].rows.rows_completed == 3 * ROWS


def test_the_error_rate_is_that_of_all_rows_not_of_those_read_first(attempt: Any) -> None:
    follow(attempt, [result(2, failed=100)], "new", (commit(0), commit(1)), "earlier")
    assert attempt.tally.failed == 100
    with pytest.raises(ErrorRateError, match=r"200 of 4000 rows failed, more than the 4\.00% allowed"):
        follow(attempt, "earlier", [result(3, failed=100)], "new")


def test_the_last_progress_counts_the_files_without_rows(attempt: Any) -> None:
    keys = [ShardKey(0, 0, 0, 5, ROWS, last=True), ShardKey(1, 0, 0, 0, 0, last=True)]
    files = tuple(InputFile(key.file, f"{key.file}.jsonl", f"in/{key.file}.jsonl", key.end, None) for key in keys)
    attempt.manifest = Manifest(attempt.run_spec.spec_hash, ROWS, SPLIT_BYTES, files)
    written = [write_shard(attempt.ledger, attempt.spec, key, table_of(key)) for key in keys]
    follow(attempt, "earlier", [ShardResult(written[0].record, won=True, tokens=(0,))], "new")
    done = attempt._conclude()
    assert done.final["shards"] == done.progress.shards_committed == 2


def test_what_a_source_raises_ends_the_run(attempt: Any) -> None:
    with pytest.raises(InternalError, match="who deleted it"):
        follow(attempt, [result(0)], InternalError("commit x was listed and is gone: who deleted it?"))
    assert attempt.tally.rows == ROWS


def test_rays_advice_on_its_own_settings_is_no_part_of_an_error() -> None:
    raised = _annotate_exception_with_retry_context(
        InputError("input.uri: it is cut off"),
        description="apply UDF transform",
        attempts=1,
        max_attempts=1,
        total_backoff_s=0.0,
        exception_str="",
    )
    assert "DataContext" in str(raised)
    assert str(driver.cause_of(raised)) == "input.uri: it is cut off"


def test_a_pump_hands_over_items_then_its_name_or_what_was_raised() -> None:
    def broken() -> Iterator[Any]:
        yield [result(0)]
        raise InternalError("gone")

    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    driver._pump(iter([[]]), items, "new")
    driver._pump(broken(), items, "new")
    assert driver._received(items, 5.0) == [[], "new"]
    [first, error] = driver._received(items, 5.0)
    assert (len(first), type(error)) == (1, InternalError)


def test_reading_earlier_commits_stops_with_the_run(attempt: Any) -> None:
    ended = threading.Event()
    keys = [ShardKey.parse(commit(seq).shard) for seq in range(2 * driver.COMMITS_AT_ONCE)]
    for key in keys:
        attempt.ledger.settle(commit(key.seq))
    read = driver._earlier(attempt.ledger, keys, ended)
    assert len(next(read)) == driver.COMMITS_AT_ONCE
    ended.set()
    assert list(read) == []


def pool(*, ready: int = 0, pending: int = 0, in_flight: int = 0, completed: int = 0) -> PoolSample:
    return PoolSample(
        ready=ready,
        pending=pending,
        restarting=0,
        retiring=0,
        queued_rows=0,
        in_flight_rows=in_flight,
        rows_completed=completed,
        busy_seconds=0.0,
        load_seconds=None,
    )


def see(attempt: Any, *pools: PoolSample, stall: str = "") -> None:
    attempt.monitor._sample = ExecutionSample(rows_read=9 * ROWS, read_finished=True, pools=pools)
    attempt.arbiter._decision = Decision(0, 0, (0,) * len(pools), ("",) * len(pools), stall, Drains())


def ask_to_pause(attempt: Any, *, pause: bool = True) -> None:
    latest = attempt.desired.latest()
    attempt.desired.offer(Capacity(sequence=latest.sequence + 1, pause=pause))


@pytest.mark.parametrize(
    ("pools", "stall", "leaves"),
    [
        pytest.param((), "", True, id="nothing began"),
        pytest.param((pool(completed=ROWS), pool(completed=ROWS)), "", True, id="all is committed"),
        pytest.param((pool(completed=2 * ROWS), pool(completed=ROWS)), "", False, id="rows wait between the stages"),
        pytest.param((pool(completed=2 * ROWS), pool(completed=2 * ROWS)), "", False, id="a commit is under way"),
        pytest.param((pool(ready=1, completed=ROWS), pool(completed=ROWS)), "", False, id="it may begin a shard yet"),
        pytest.param((pool(pending=1, completed=ROWS), pool(completed=ROWS)), "", False, id="it may begin one soon"),
        pytest.param((pool(in_flight=9, completed=ROWS), pool(completed=ROWS)), "", False, id="the first stage works"),
        pytest.param((pool(completed=ROWS), pool(in_flight=9, completed=ROWS)), "", False, id="the last stage works"),
        pytest.param((pool(completed=2 * ROWS), pool(completed=ROWS)), "no GPU", True, id="the rest cannot move"),
        pytest.param((pool(completed=2 * ROWS), pool(completed=2 * ROWS)), "no GPU", False, id="but a commit can"),
        pytest.param((pool(completed=2 * ROWS), pool(in_flight=9)), "no GPU", False, id="a doomed replica works"),
        pytest.param((pool(completed=ROWS),), "", True, id="one stage, all committed"),
        pytest.param((pool(in_flight=9, completed=ROWS),), "", False, id="one stage, at work"),
    ],
)
def test_a_pause_waits_for_what_is_in_flight_and_can_move(
    attempt: Any, pools: tuple[PoolSample, ...], stall: str, *, leaves: bool
) -> None:
    see(attempt, *pools, stall=stall)
    attempt._take_new([result(0)])
    assert attempt._may_leave("pause", 60.0, idle=True) == leaves
    assert attempt._may_leave("pause", driver.DRAIN_SECONDS, idle=False)


def test_a_stop_waits_for_nothing_that_takes_longer(attempt: Any) -> None:
    see(attempt, pool(in_flight=ROWS))
    attempt.stop.set()
    ask_to_pause(attempt)
    assert not follow(attempt)


def test_without_the_arbiter_a_pause_is_a_stop(attempt: Any) -> None:
    see(attempt, pool(in_flight=ROWS))
    attempt.arbiter = None
    ask_to_pause(attempt)
    assert not follow(attempt)


def test_a_run_that_pauses_takes_in_what_comes_and_leaves(attempt: Any) -> None:
    see(attempt, pool(completed=2 * ROWS))
    ask_to_pause(attempt)
    assert not follow(attempt, [result(0)], "earlier", [result(1)])
    assert attempt.tally.new_rows == 2 * ROWS


def test_a_pause_that_is_taken_back_is_none(attempt: Any) -> None:
    see(attempt, pool(in_flight=ROWS, completed=2 * ROWS))
    attempt.on_progress = lambda _: ask_to_pause(attempt, pause=attempt.tally.new_rows == ROWS)
    assert follow(attempt, [result(0)], "earlier", [result(1)], "new")
    assert attempt.tally.new_rows == 2 * ROWS
