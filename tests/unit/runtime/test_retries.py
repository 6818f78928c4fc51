"""Running failed rows again: what counts before, during and after, on a store where anything can fail."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from obstore.store import MemoryStore

from ledgerkit import (
    LATER,
    CrashError,
    FaultyStore,
    job_spec,
    manifest_of,
    no_fault,
    open_ledger,
    read_rows,
    rows_of,
    shard_keys,
    to_table,
)
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.garbage import find_garbage
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.retries import begin_retry, is_kept, mark_kept
from llmbatch.runtime.rows import Row, from_table
from llmbatch.runtime.shards import ShardKey

KEYS = shard_keys(files=2, shards=2, rows=4)
FAILING = {str(KEYS[0]): (1, 3), str(KEYS[2]): (0, 1, 2, 3)}
FAILED = sum(map(len, FAILING.values()))
FORMATS = ["parquet", "jsonl", "openai"]


def read(key: ShardKey) -> list[Row]:
    """Return a shard's rows as the reader yields them: before the stages."""
    rows = rows_of(key, ids=lambda position: f"{key.file}-{key.end - key.rows + position}")
    for row in rows:
        row.outputs, row.seconds = {}, 0.0
    return rows


def staged(rows: list[Row], key: ShardKey, failing: tuple[int, ...]) -> list[Row]:
    """Return what the stages make of rows: those with an error pass untouched."""
    made = rows_of(key, failing=failing, ids=lambda position: f"{key.file}-{key.end - key.rows + position}")
    return [row if row.error is not None else new for row, new in zip(rows, made, strict=True)]


def run(ledger: Ledger, spec: Any, failing: dict[str, tuple[int, ...]], keys: list[ShardKey] = KEYS) -> Counter[str]:
    """Run what is left of the job, as the pipeline does, and count which rows the stages ran."""
    ran: Counter[str] = Counter()
    done = set(ledger.committed())
    for key in keys:
        if key in done:
            continue
        rows = from_table(mark_kept(ledger, key, to_table(read(key))))
        ran.update(row.id for row in rows if not is_kept(row.error))
        write_shard(ledger, spec, key, to_table(staged(rows, key, failing.get(str(key), ()))))
    return ran


def first_run(spec: Any, store: Any) -> Ledger:
    """Return the ledger of a complete job with failed rows."""
    ledger = open_ledger(spec, store)
    manifest = ledger.create_manifest(manifest_of(KEYS))
    run(ledger, spec, FAILING)
    assert finalize(ledger, manifest, spec, LATER).failed == FAILED
    return ledger


def ids(ledger: Ledger) -> list[str]:
    field = "custom_id" if ledger.output.format == "openai" else "id"
    return [row[field] for row in read_rows(ledger)]


WANTED = [row.id for key in KEYS for row in read(key)]


@pytest.mark.parametrize("output_format", FORMATS)
def test_only_failed_rows_run_again_and_the_output_is_that_of_a_run_without_failures(output_format: str):
    spec = job_spec("out", output_format)
    store = MemoryStore()
    ledger = begin_retry(first_run(spec, store), "a", LATER)
    ran = run(ledger, spec, {})
    assert ran == Counter(row.id for key in KEYS for row in read(key) if row.position in FAILING.get(str(key), ()))
    final = finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert (final.failed, final.rows, final.retry) == (0, len(WANTED), 1)
    assert ids(ledger) == WANTED

    whole = open_ledger(spec, MemoryStore())
    whole.create_manifest(manifest_of(KEYS))
    run(whole, spec, {})
    finalize(whole, manifest_of(KEYS), spec, LATER)
    assert read_rows(ledger) == read_rows(whole)


def test_a_row_that_fails_again_stays_one_row_with_an_error():
    spec = job_spec("out", "jsonl")
    ledger = begin_retry(first_run(spec, MemoryStore()), "a", LATER)
    run(ledger, spec, {str(KEYS[0]): (3,)})
    assert finalize(ledger, manifest_of(KEYS), spec, LATER).failed == 1
    assert [row["id"] for row in read_rows(ledger) if row["error"]] == [WANTED[3]]
    assert ids(ledger) == WANTED


def test_the_output_before_is_complete_and_stays():
    spec = job_spec("out", "jsonl")
    store = MemoryStore()
    before = first_run(spec, store)
    old = read_rows(before)
    ledger = begin_retry(before, "a", LATER)
    run(ledger, spec, {}, keys=KEYS[:1])
    assert read_rows(open_ledger(spec, store)) == old, "half a retry shows nothing"
    run(ledger, spec, {})
    finalize(ledger, manifest_of(KEYS), spec, LATER)
    finals = list(ledger.finals())
    assert [final.failed for final in finals] == [FAILED, 0]
    kept = {winner.data for final in finals for winner in ledger.winners(final)}
    garbage = {entry.key for entry in find_garbage(ledger, finals[-1], datetime(2100, 1, 1, tzinfo=UTC), 0)}
    assert not garbage & kept


def test_the_same_request_begins_once_and_another_one_begins_the_next():
    spec = job_spec("out")
    store = MemoryStore()
    first_run(spec, store)
    ledger = begin_retry(open_ledger(spec, store), "a", LATER)
    assert begin_retry(open_ledger(spec, store), "b", LATER).retry == 1, "one that is under way is joined"
    run(ledger, spec, FAILING)
    assert finalize(ledger, manifest_of(KEYS), spec, LATER).failed == FAILED
    assert begin_retry(open_ledger(spec, store), "a", LATER).retry == 1
    ledger = begin_retry(open_ledger(spec, store), "b", LATER)
    assert ledger.retry == 2
    run(ledger, spec, {})
    assert finalize(ledger, manifest_of(KEYS), spec, LATER).failed == 0
    assert begin_retry(open_ledger(spec, store), "c", LATER).retry == 2, "nothing is left to retry"
    assert ids(ledger) == WANTED


def test_a_job_that_failed_goes_on_and_runs_its_failed_rows_again():
    """Without a `_FINAL`, half of it committed, and every row of that an error."""
    spec = job_spec("out", "jsonl")
    store = MemoryStore()
    ledger = open_ledger(spec, store)
    ledger.create_manifest(manifest_of(KEYS))
    run(ledger, spec, {str(key): (0, 1, 2, 3) for key in KEYS[:2]}, keys=KEYS[:2])
    ledger = begin_retry(ledger, "a", LATER)
    assert list(ledger.committed()) == [], "failed rows that are to run again count no more"
    assert run(ledger, spec, {}) == Counter(WANTED)
    final = finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert (final.failed, final.retry) == (0, 1)
    assert [item.retry for item in ledger.finals()] == [1]
    assert ids(ledger) == WANTED


def test_a_driver_of_the_time_before_that_wakes_late_takes_nothing_back():
    spec = job_spec("out", "jsonl")
    store = MemoryStore()
    zombie = open_ledger(spec, store)
    zombie.create_manifest(manifest_of(KEYS))
    run(zombie, spec, FAILING, keys=KEYS[:3])
    ledger = begin_retry(zombie, "a", LATER)
    run(ledger, spec, {})
    run(zombie, spec, {str(KEYS[3]): (0,)})
    finalize(zombie, manifest_of(KEYS), spec, LATER)
    final = finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert (final.retry, final.failed) == (1, 0)
    assert [item.retry for item in ledger.finals()] == [0, 1]
    assert finalize(zombie, manifest_of(KEYS), spec, LATER).retry == 0
    assert ids(open_ledger(spec, store)) == WANTED


def retry(spec: Any, store: Any) -> None:
    """One attempt at the retry, as the driver does it."""
    ledger = begin_retry(open_ledger(spec, store), "a", LATER)
    run(ledger, spec, {})
    finalize(ledger, manifest_of(KEYS), spec, LATER)


def writes_of_a_retry() -> int:
    spec = job_spec("out", "jsonl")
    store = MemoryStore()
    first_run(spec, store)
    counting = FaultyStore(store, no_fault)
    retry(spec, counting)
    return sum(name == "put" for name, _ in counting.calls)


@pytest.mark.parametrize("when", ["die before", "die after"])
def test_a_crash_at_any_write_of_a_retry_loses_and_doubles_nothing(when: Any):
    for number in range(writes_of_a_retry()):
        spec = job_spec("out", "jsonl")
        store = MemoryStore()
        first_run(spec, store)
        puts = iter(range(10_000))

        def at(_: int, name: str, __: str, number: int = number, puts: Any = puts) -> Any:
            return when if name == "put" and next(puts) == number else None

        with pytest.raises(CrashError):
            retry(spec, FaultyStore(store, at))
        assert ids(open_ledger(spec, store)) == WANTED
        retry(spec, store)
        ledger = open_ledger(spec, store)
        assert (ledger.retry, ledger.read_final().failed) == (1, 0)
        assert ids(ledger) == WANTED
