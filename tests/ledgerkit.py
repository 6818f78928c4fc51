"""Small jobs, rows and faulty stores, for tests of the ledger on any store."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from obstore import exceptions

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.parts import read_part
from llmbatch.runtime.records import Commit, Final, Manifest
from llmbatch.runtime.rows import SCHEMA, Row, RowError, StageOutput, dumps, output_column
from llmbatch.runtime.shards import InputFile, ShardKey
from llmbatch.runtime.storage import Folder, Retry

SPEC_HASH = "0123456789abcdef"
JOB = "local/test"
CLOCK = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)


def no_sleep(seconds: float) -> None:
    """Wait for nothing."""


NO_WAIT = Retry(sleep=no_sleep)


def job_spec(uri: str, output_format: str = "parquet", **changes: Any) -> LLMBatchJobSpec:
    """A generate stage chained with an embed stage, ids generated from file and row."""
    document: dict[str, Any] = {
        "input": {"uri": "in/*.csv", "format": "csv"},
        "stages": [
            {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}},
            {"name": "vec", "engine": "simulated", "task": "embed", "prompt": {"user": "{{ say }}"}},
        ],
        "output": {"uri": uri, "format": output_format, "keepInput": True},
    }
    if output_format == "openai":
        document["input"] = {"uri": "in/*.jsonl", "format": "openai"}
    for section, values in changes.items():
        if isinstance(values, dict):
            document[section] = document.get(section, {}) | values
        else:
            document[section] = values
    return LLMBatchJobSpec.model_validate(document)


def shard_keys(files: int, shards: int, rows: int) -> list[ShardKey]:
    """`shards` shards of `rows` rows in the only split of each of `files` compressed or CSV files."""
    return [
        ShardKey(file=file, split=0, seq=seq, end=(seq + 1) * rows, rows=rows, last=seq == shards - 1)
        for file in range(files)
        for seq in range(shards)
    ]


def manifest_of(keys: Iterable[ShardKey]) -> Manifest:
    indices = sorted({key.file for key in keys})
    files = tuple(
        InputFile(index=index, path=f"{index}.csv", uri=f"in/{index}.csv", size=100, etag=f"e{index}")
        for index in indices
    )
    return Manifest(spec_hash=SPEC_HASH, shard_rows=256, split_bytes=1 << 25, files=files)


def rows_of(key: ShardKey, *, failing: Iterable[int] = (), ids: Callable[[int], str] | None = None) -> list[Row]:
    """The rows of one shard after both stages, a function of the key alone."""
    first = key.end - key.rows
    return [_row(key, position, first, position in set(failing), ids) for position in range(key.rows)]


def table_of(key: ShardKey, *, failing: Iterable[int] = (), ids: Callable[[int], str] | None = None) -> pa.Table:
    """`rows_of` as a table."""
    return to_table(rows_of(key, failing=failing, ids=ids))


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Pack rows as the pipeline does: `SCHEMA`, and the columns of the stages that some of them passed."""
    rows = list(rows)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns["fields"] = [dumps(fields) for fields in columns["fields"]]
    columns["error"] = [dumps(error) if error else "" for error in columns["error"]]
    arrays = {field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}
    for stage in dict.fromkeys(name for row in rows for name in row.outputs):
        outputs = [row.outputs.get(stage) for row in rows]
        for index, part in enumerate(StageOutput._fields):
            arrays[output_column(stage, part)] = pa.array([output and output[index] for output in outputs])
    return pa.table(arrays)


def _row(key: ShardKey, position: int, first: int, fails: bool, ids: Callable[[int], str] | None) -> Row:
    number = first + position
    row = Row(
        shard=str(key),
        start=-1,
        position=position,
        id=ids(position) if ids else f"{key.file}.csv:{number}",
        fields={"text": f"file {key.file} row {number}"},
        seconds=0.5,
    )
    if fails:
        row.error = RowError("say", "ContextLengthExceeded", "9000 tokens, at most 8192 fit")
    else:
        row.outputs = {
            "say": StageOutput(f"said {number}", 7, 3, "stop"),
            "vec": StageOutput([0.5, number / 4], 3),
        }
    return row


def open_ledger(spec: LLMBatchJobSpec, store: Any = None, retry: Retry = NO_WAIT) -> Ledger:
    """Open the ledger, on `store` instead of the store at the URI where one is given."""
    folder = Folder(spec.output.uri, spec.output.storage, retry=retry, _store=store)
    return Ledger.open(spec.output, SPEC_HASH, JOB, now=lambda: CLOCK, folder=folder)


def attempt_job(spec: LLMBatchJobSpec, keys: list[ShardKey], store: Any, worker: str) -> Final:
    """One attempt at the whole job, as the driver does it: claim, list, write what is missing, finalize."""
    ledger = open_ledger(spec, store)
    manifest = ledger.create_manifest(manifest_of(keys))
    done = set(ledger.committed())
    for key in keys:
        if key not in done:
            write_shard(ledger, spec, key, table_of(key), worker=worker)
    return finalize(ledger, manifest, spec, LATER)


def read_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """All rows a reader of `_FINAL` sees, in order."""
    found: list[dict[str, Any]] = []
    for winner in ledger.winners():
        data = read_part(ledger.folder, winner.data, winner.sha256)
        if ledger.output.format == "parquet":
            found += pq.read_table(io.BytesIO(data)).to_pylist()
        else:
            found += [json.loads(line) for line in data.splitlines()]
    return found


def assert_exactly_once(ledger: Ledger, keys: list[ShardKey]) -> None:
    """Check the invariants I1 to I4 and I6 of the protocol on a finished output."""
    final = ledger.read_final()
    assert final is not None
    wanted = {row.id: row.fields for key in keys for row in rows_of(key)}
    found = read_rows(ledger)
    assert Counter(row["id"] for row in found) == Counter(list(wanted))
    assert {row["id"]: _fields(row["input"]) for row in found} == wanted
    assert final.rows == sum(key.rows for key in keys) == len(found)
    commits = list(ledger.load_commits(sorted(ledger.committed())))
    assert [commit.data for commit in commits] == [winner.data for winner in ledger.winners()]
    assert len({commit.data for commit in commits}) == len(commits) == len(keys)


def _fields(carried: str | dict[str, Any]) -> Any:
    return json.loads(carried) if isinstance(carried, str) else carried


def commit_of(key: ShardKey, attempt: str = "a", **changes: Any) -> Commit:
    """A commit record without a part file."""
    fields: dict[str, Any] = {
        "shard": str(key),
        "attempt": attempt,
        "data": f"data/{SPEC_HASH}/{key}-{attempt}.parquet",
        "size": 1,
        "sha256": "00",
        "rows": key.rows,
    }
    return Commit(**(fields | changes))


class CrashError(BaseException):
    """The process died: nothing may catch this."""


Fault = Literal["die before", "die after", "lost answer", "409", "503"]


class FaultyStore:
    """Passes calls on to a store, one at a time, and lets `fault` decide what happens to each.

    `fault` gets the call's number from 0, its name and its key, and may block: that is how a test orders the
    calls of several writers.
    """

    def __init__(self, store: Any, fault: Callable[[int, str, str], Fault | None]) -> None:
        self._inner = store
        self._fault = fault
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []

    def put(self, key: str, data: bytes, **options: Any) -> Any:
        return self._call("put", key, lambda: self._inner.put(key, data, **options))

    def get(self, key: str) -> Any:
        return self._call("get", key, lambda: self._inner.get(key))

    def head(self, key: str) -> Any:
        return self._call("head", key, lambda: self._inner.head(key))

    def list(self, prefix: str, **options: Any) -> Any:
        return self._call("list", prefix, lambda: list(self._inner.list(prefix, **options)))

    def delete(self, keys: Any) -> Any:
        return self._call("delete", str(keys), lambda: self._inner.delete(keys))

    def _call(self, name: str, key: str, act: Callable[[], Any]) -> Any:
        with self._lock:
            number = len(self.calls)
            self.calls.append((name, key))
        fault = self._fault(number, name, key)
        if fault == "die before":
            raise CrashError
        if fault == "409" and name == "put":
            raise exceptions.AlreadyExistsError(f"Object at location {key} already exists: 409 Conflict")
        if fault == "503":
            raise exceptions.GenericError("Generic S3 error: Server returned non-2xx status code: 503 Slow Down")
        try:
            answer = act()
        finally:
            if fault == "die after":
                raise CrashError
        if fault == "lost answer":
            raise exceptions.GenericError("Generic S3 error: HTTP error: error sending request")
        return answer


def no_fault(number: int, name: str, key: str) -> None:
    """Let every call through."""
