"""Garbage: only files that no longer can count, only after the end, and never a winner."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from ledgerkit import (
    CLOCK,
    assert_exactly_once,
    job_spec,
    manifest_of,
    open_ledger,
    shard_keys,
    table_of,
)
from llmbatch.errors import InternalError
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.garbage import Collected, delete_garbage, find_garbage
from llmbatch.runtime.outputs import write_shard

KEYS = shard_keys(files=2, shards=3, rows=4)


def finished_with_losers(tmp_path, final_after=timedelta(0)):
    """A finished job whose every shard has a losing part, its `_FINAL`, and when its files were written."""
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    for key in KEYS:
        write_shard(ledger, spec, key, table_of(key))
        write_shard(ledger, spec, key, table_of(key))
    written = max(path.stat().st_mtime for path in (tmp_path / ledger.data_prefix).iterdir())
    when = CLOCK.fromtimestamp(written, CLOCK.tzinfo)
    return ledger, finalize(ledger, manifest_of(KEYS), spec, when + final_after), when


def parts_of(tmp_path, ledger):
    return {f"{ledger.data_prefix}{path.name}" for path in (tmp_path / ledger.data_prefix).iterdir()}


def test_losers_go_after_final_and_grace(tmp_path):
    ledger, final, written = finished_with_losers(tmp_path)
    assert len(parts_of(tmp_path, ledger)) == 2 * len(KEYS)
    later = written + timedelta(seconds=61)
    size = sum(entry.size for entry in find_garbage(ledger, final, later, 60))
    assert delete_garbage(ledger, find_garbage(ledger, final, later, 60)) == Collected(len(KEYS), size)
    assert delete_garbage(ledger, find_garbage(ledger, final, later, 60)) == Collected()
    assert parts_of(tmp_path, ledger) == {winner.data for winner in ledger.winners()}
    assert_exactly_once(ledger, KEYS)


def test_old_losers_of_a_job_that_just_ended_stay(tmp_path):
    ledger, final, written = finished_with_losers(tmp_path, timedelta(days=1))
    assert not list(find_garbage(ledger, final, written + timedelta(days=1, seconds=59), 60))


def test_young_losers_of_a_job_that_ended_long_ago_stay(tmp_path):
    ledger, final, written = finished_with_losers(tmp_path, timedelta(days=-1))
    assert not list(find_garbage(ledger, final, written + timedelta(seconds=59), 60))


def test_writes_that_a_kill_cut_short_go_too(tmp_path):
    ledger, final, written = finished_with_losers(tmp_path, timedelta(days=-1))
    commit = tmp_path / ledger.commits_prefix / f"{KEYS[0]}#1"
    part = tmp_path / ledger.data_prefix / "half.parquet#12"
    fresh = tmp_path / ledger.data_prefix / "fresh.parquet#1"
    foreign = tmp_path / "notes#1"
    for path in (commit, part, fresh, foreign):
        path.write_bytes(b"half")
    old = written.timestamp() - 3600
    os.utime(commit, (old, old))
    os.utime(part, (old, old))
    found = [entry.key for entry in find_garbage(ledger, final, written + timedelta(seconds=1), 60)]
    assert found == [path.relative_to(tmp_path).as_posix() for path in (part, commit)]
    delete_garbage(ledger, find_garbage(ledger, final, written + timedelta(seconds=1), 60))
    assert [path.exists() for path in (commit, part, fresh, foreign)] == [False, False, True, True]


def test_nothing_goes_when_the_list_of_winners_is_damaged(tmp_path):
    ledger, final, written = finished_with_losers(tmp_path)
    (tmp_path / final.winners.key).write_bytes(b"")
    with pytest.raises(InternalError, match="is not what _FINAL describes"):
        delete_garbage(ledger, find_garbage(ledger, final, written + timedelta(days=1), 60))
    assert len(parts_of(tmp_path, ledger)) == 2 * len(KEYS)
