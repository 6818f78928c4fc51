"""The ledger: claim, manifest, commit, finalize, garbage; and exactly once under crashes and races."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from ledgerkit import (
    CLOCK,
    LATER,
    NO_WAIT,
    SPEC_HASH,
    CrashError,
    Fault,
    FaultyStore,
    assert_exactly_once,
    attempt_job,
    commit_of,
    job_spec,
    manifest_of,
    no_fault,
    open_ledger,
    shard_keys,
    table_of,
)
from llmbatch.errors import InputError, InternalError, OutputConflictError, OutputError
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.records import Manifest
from llmbatch.runtime.shards import InputFile
from llmbatch.runtime.storage import Folder

KEYS = shard_keys(files=2, shards=2, rows=3)


def test_the_first_spec_claims_the_folder_and_another_is_refused(tmp_path):
    spec = job_spec(str(tmp_path))
    first = open_ledger(spec)
    again = Ledger.open(spec.output, SPEC_HASH, "other/name", now=lambda: LATER)
    assert again.mark == first.mark
    assert again.mark.started_at == CLOCK
    with pytest.raises(OutputConflictError) as caught:
        Ledger.open(spec.output, "f" * 16, "local/test")
    message = str(caught.value)
    assert message.startswith(f"output.uri: {str(tmp_path)!r}: it holds the output of job local/test")
    assert SPEC_HASH in message
    assert "f" * 16 in message


def test_a_foreign_spec_file_is_refused(tmp_path):
    (tmp_path / "_SPEC").write_text("not ours")
    with pytest.raises(OutputConflictError, match="not written by llmbatch"):
        open_ledger(job_spec(str(tmp_path)))


def test_a_store_that_ignores_the_condition_is_refused():
    class Careless(FaultyStore):
        def put(self, key, data, **options):
            return super().put(key, data)

    with pytest.raises(OutputError, match=r"^output.uri: 'x': the store must refuse to create an object twice"):
        open_ledger(job_spec("x"), Careless(MemoryStore(), no_fault))


def test_a_ledger_pickles_as_its_address(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = pickle.loads(pickle.dumps(open_ledger(spec)))
    assert ledger.commit(commit_of(KEYS[0]))
    assert list(ledger.committed()) == [KEYS[0]]


def test_finding_a_ledger_creates_nothing(tmp_path):
    spec = job_spec(str(tmp_path / "out"))
    assert Ledger.find(spec.output) is None
    assert not (tmp_path / "out").exists()
    open_ledger(spec)
    found = Ledger.find(spec.output)
    assert found is not None
    assert found.spec_hash == SPEC_HASH


def test_the_first_manifest_counts(tmp_path):
    ledger = open_ledger(job_spec(str(tmp_path)))
    assert ledger.read_manifest() is None
    first = manifest_of(KEYS)
    assert ledger.create_manifest(first) == first
    other = Manifest(SPEC_HASH, 1, 1, ())
    assert ledger.create_manifest(other) == first
    assert ledger.read_manifest() == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"etag": "new"}, "changed since the job began"),
        ({"size": 99}, "changed since the job began"),
        (None, "gone since the job began"),
    ],
)
def test_an_input_that_changed_stops_the_resume_by_name(changes, message):
    manifest = manifest_of(KEYS)
    unchanged, file = manifest.files
    now = [unchanged]
    if changes is not None:
        fields = {name: getattr(file, name) for name in ("index", "path", "uri", "size", "etag")}
        now.append(InputFile(**(fields | changes)))
    with pytest.raises(InputError, match=f"^input.uri: 'in/1.csv': .*{message}"):
        manifest.check_inputs(now)


def test_files_that_came_later_are_named_and_not_read():
    manifest = manifest_of(KEYS)
    late = InputFile(index=2, path="2.csv", uri="in/2.csv", size=1, etag="e")
    assert manifest.check_inputs([*manifest.files, late]) == ("in/2.csv",)


def test_the_first_commit_wins_and_stands(tmp_path):
    ledger = open_ledger(job_spec(str(tmp_path)))
    assert ledger.commit(commit_of(KEYS[0], "a", rows=3, failed=1))
    assert not ledger.commit(commit_of(KEYS[0], "b"))
    assert ledger.settle(commit_of(KEYS[0], "b")).attempt == "a"
    assert [commit.attempt for commit in ledger.load_commits([KEYS[0]])] == ["a"]


def test_commits_load_in_the_order_asked_for(tmp_path):
    ledger = open_ledger(job_spec(str(tmp_path)))
    keys = shard_keys(files=1, shards=40, rows=1)
    for key in keys:
        ledger.commit(commit_of(key))
    assert sorted(ledger.committed()) == keys
    backwards = keys[::-1]
    assert [commit.shard for commit in ledger.load_commits(iter(backwards))] == [str(key) for key in backwards]


def test_a_commit_that_vanished_or_is_damaged_is_reported(tmp_path):
    ledger = open_ledger(job_spec(str(tmp_path)))
    with pytest.raises(InternalError, match="is gone"):
        list(ledger.load_commits([KEYS[0]]))
    ledger.commit(commit_of(KEYS[0]))
    (tmp_path / ledger.commits_prefix / str(KEYS[0])).write_bytes(b"")
    with pytest.raises(InternalError, match=r"damaged: delete it and run the job again"):
        list(ledger.load_commits([KEYS[0]]))


def test_final_sums_up_and_the_second_one_is_the_first(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    for key in KEYS:
        write_shard(ledger, spec, key, table_of(key, failing=[1]))
    final = finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert (final.shards, final.rows, final.failed) == (4, 12, 4)
    assert (final.prompt_tokens, final.completion_tokens) == (8 * 10, 8 * 3)
    assert (final.started_at, final.finished_at, final.spec_hash) == (CLOCK, LATER, SPEC_HASH)
    watched = FaultyStore(ledger.folder.store, no_fault)
    again = open_ledger(spec, watched)
    watched.calls.clear()
    assert finalize(again, manifest_of(KEYS), spec, LATER + timedelta(days=1)) == final
    assert watched.calls == [("get", "_FINAL")]
    assert json.loads((tmp_path / "_FINAL").read_bytes())["winners"]["key"] == final.winners.key
    assert [winner.shard for winner in ledger.winners()] == KEYS


def test_an_incomplete_output_is_not_final(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    for key in KEYS[:-1]:
        write_shard(ledger, spec, key, table_of(key))
    with pytest.raises(InternalError, match="not complete"):
        finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert ledger.read_final() is None
    with pytest.raises(OutputError, match="not complete"):
        list(ledger.winners())


def test_a_gap_between_shards_is_found(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    keys = shard_keys(files=1, shards=3, rows=2)
    for key in (keys[0], keys[2]):
        write_shard(ledger, spec, key, table_of(key))
    with pytest.raises(InternalError):
        finalize(ledger, manifest_of(keys), spec, LATER)


@pytest.mark.parametrize(
    "stray",
    [
        replace(KEYS[0], end=KEYS[0].end + 1),
        replace(KEYS[1], seq=2, end=9),
        replace(KEYS[1], seq=2, end=9, last=False),
        replace(KEYS[3], file=9, seq=0),
    ],
    ids=["cut at another place", "after the last", "after the last, and not the last", "of no file"],
)
def test_a_shard_that_doubles_rows_is_found(tmp_path, stray):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    for key in [*KEYS, stray]:
        write_shard(ledger, spec, key, table_of(key))
    with pytest.raises(InternalError, match=str(stray)):
        finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert ledger.read_final() is None


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_lost_part_is_found_before_final(tmp_path, damage):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    records = [write_shard(ledger, spec, key, table_of(key)).record for key in KEYS]
    part = tmp_path / records[1].data
    if damage == "delete":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(InternalError, match=records[1].data):
        finalize(ledger, manifest_of(KEYS), spec, LATER)
    assert ledger.read_final() is None


def test_a_staging_file_of_a_killed_local_write_is_no_commit(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    ledger.commit(commit_of(KEYS[0]))
    (tmp_path / ledger.commits_prefix / f"{KEYS[1]}#1").write_bytes(b"half a rec")
    assert list(ledger.committed()) == [KEYS[0]]
    assert ledger.commit(commit_of(KEYS[1]))


# --- exactly once: every crash, every pause, two writers ------------------------------------------------


class Recorder:
    """A memory store that remembers what each object was when it was created (I5)."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def contents(self) -> dict[str, bytes]:
        return {
            meta["path"]: bytes(self.store.get(meta["path"]).bytes()) for chunk in self.store.list("") for meta in chunk
        }


def count_calls(spec: Any, keys: Any) -> int:
    store = FaultyStore(MemoryStore(), no_fault)
    attempt_job(spec, keys, store, "counter")
    return len(store.calls)


SPEC = job_spec("memory")
TWO = shard_keys(files=1, shards=2, rows=2)
CALLS = count_calls(SPEC, TWO)


def protected(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The objects that must never change: everything of the ledger but what is named by content."""
    return {key: data for key, data in contents.items() if not key.startswith("data/")}


@pytest.mark.parametrize("fault", ["die before", "die after"])
def test_killed_at_every_call_then_run_again(fault: Fault):
    for point in range(CALLS):
        recorder = Recorder()
        dying = FaultyStore(recorder.store, lambda number, name, key, point=point: fault if number == point else None)
        with pytest.raises(CrashError):
            attempt_job(SPEC, TWO, dying, "first")
        before = recorder.contents()
        attempt_job(SPEC, TWO, recorder.store, "second")
        assert_exactly_once(open_ledger(SPEC, recorder.store), TWO)
        after = recorder.contents()
        assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("fault", ["lost answer", "409", "503"])
def test_every_call_survives_one_fault(fault: Fault):
    for point in range(CALLS):
        recorder = Recorder()
        store = FaultyStore(
            recorder.store,
            lambda number, name, key, point=point: fault if number == point and name == "put" else None,
        )
        attempt_job(SPEC, TWO, store, "only")
        assert_exactly_once(open_ledger(SPEC, recorder.store), TWO)
        # A put whose answer was lost won all the same: nothing was written twice.
        assert len([key for key in recorder.contents() if key.startswith("data/")]) == len(TWO)


def test_killed_twice_at_every_pair_of_calls():
    for first in range(CALLS):
        for second in range(CALLS):
            recorder = Recorder()
            for point in (first, second):
                dying = FaultyStore(
                    recorder.store,
                    lambda number, name, key, point=point: "die after" if number == point else None,
                )
                try:
                    attempt_job(SPEC, TWO, dying, "dying")
                except CrashError:
                    continue
            attempt_job(SPEC, TWO, recorder.store, "last")
            assert_exactly_once(open_ledger(SPEC, recorder.store), TWO)


class Writer:
    """An attempt in a thread that makes one storage call each time it is told to."""

    def __init__(self, recorder: Recorder, name: str, dies_at: int | None = None) -> None:
        self._go = threading.Semaphore(0)
        self._idle = threading.Semaphore(0)
        self._dies_at = dies_at
        self.done = False
        self.error: BaseException | None = None
        self._store = FaultyStore(recorder.store, self._gate)
        self._thread = threading.Thread(target=self._run, args=(name,), daemon=True)
        self._thread.start()
        self._idle.acquire()

    def _gate(self, number: int, name: str, key: str) -> Fault | None:
        self._idle.release()
        self._go.acquire()
        return "die after" if number == self._dies_at else None

    def _run(self, name: str) -> None:
        try:
            attempt_job(SPEC, TWO, self._store, name)
        except BaseException as error:  # noqa: BLE001 - raised again by finish()
            self.error = error
        self.done = True
        self._idle.release()

    def step(self) -> None:
        if not self.done:
            self._go.release()
            self._idle.acquire()

    def finish(self) -> None:
        while not self.done:
            self.step()
        self._thread.join()
        if self.error is not None and not isinstance(self.error, CrashError):
            raise self.error


def test_a_paused_driver_that_wakes_after_another_finished_changes_nothing():
    for pause in range(CALLS):
        recorder = Recorder()
        zombie = Writer(recorder, "zombie")
        for _ in range(pause):
            zombie.step()
        attempt_job(SPEC, TWO, recorder.store, "second")
        before = protected(recorder.contents())
        zombie.finish()
        assert protected(recorder.contents()) == before
        assert_exactly_once(open_ledger(SPEC, recorder.store), TWO)


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(st.integers(0, 2), max_size=120),
    deaths=st.tuples(*[st.none() | st.integers(0, CALLS - 1)] * 3),
)
def test_three_drivers_interleaved_at_random_with_deaths(schedule, deaths):
    recorder = Recorder()
    writers = [Writer(recorder, str(index), death) for index, death in enumerate(deaths)]
    commits: dict[str, bytes] = {}
    for turn in schedule:
        writers[turn].step()
        for key, data in recorder.contents().items():
            if "/commits/" in key:
                assert commits.setdefault(key, data) == data
    for writer in writers:
        writer.finish()
    attempt_job(SPEC, TWO, recorder.store, "last")
    assert_exactly_once(open_ledger(SPEC, recorder.store), TWO)
    after = recorder.contents()
    assert {key: after[key] for key in commits} == commits


def test_two_threads_on_a_real_folder_commit_each_shard_once(tmp_path):
    spec = job_spec(str(tmp_path))
    keys = shard_keys(files=2, shards=20, rows=2)
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def race(name: str) -> None:
        try:
            folder = Folder(spec.output.uri, retry=NO_WAIT)
            barrier.wait()
            attempt_job(spec, keys, folder.store, name)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=race, args=(str(index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_exactly_once(open_ledger(spec), keys)
