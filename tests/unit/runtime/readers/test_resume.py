"""Any input, cut in any way and resumed from any set of commits, gives each row once and the same shards."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.runtime.readers import objects, text
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.objects import ObjectFile
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.shards import ShardKey, plan_splits
from readerkit import compress, read, rows_of, source, write_parquet

KINDS = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "parquet"]
AHEAD = 48


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Lines of JSON with blank lines, long lines, broken lines and any line ends."""
    lines = []
    for number in range(draw(st.integers(0, 25))):
        good = json.dumps({"id": f"i{number}", "text": "x" * draw(st.sampled_from([0, 1, 5, 150]))})
        lines.append(draw(st.sampled_from([good, good, good, f"broken {number}"])))
        lines += [""] * draw(st.sampled_from([0, 0, 0, 1, 3]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + end.join(lines) + draw(st.sampled_from(["", end, end * 3]))).encode()


def write(folder: str, data: bytes, kind: str) -> Path:
    path = Path(folder) / f"a.{kind}"
    lines = data.decode("utf-8-sig").splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    if kind == "parquet":
        write_parquet(path, records or [{"id": "only", "text": ""}], row_group=7)
        return path
    if kind.startswith("csv"):
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, ["id", "text"])
        writer.writeheader()
        writer.writerows({**record, "text": record["text"] + '",\n'} for record in records)
        data = buffer.getvalue().encode()
    codec = {"gz": "gzip", "zst": "zstd"}.get(kind.rpartition(".")[2])
    path.write_bytes(compress(data, codec) if codec else data)
    return path


@contextmanager
def small_reads() -> Iterator[None]:
    """Reads of a few bytes, so that a small file has many."""
    with mock.patch.object(text, "FIRST_READ", AHEAD), mock.patch.object(text, "LARGEST_READ", AHEAD):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("id_field", [None, "id"])
@settings(max_examples=15, deadline=None)
@given(data=texts(), shard_rows=st.integers(1, 9), split_bytes=st.integers(4, 600), draw=st.data())
def test_what_is_committed_and_what_is_read_is_each_row_once(
    kind: str, id_field: str | None, data: bytes, shard_rows: int, split_bytes: int, draw: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, small_reads():
        job_input = source(write(folder, data, kind), kind.partition(".")[0], id_field=id_field)
        whole = read(job_input, shard_rows, split_bytes=split_bytes)
        committed = draw.draw(st.sets(st.sampled_from(sorted(whole))))
        resumed = read(job_input, shard_rows, split_bytes=split_bytes, committed=tuple(committed))
        assert resumed == {key: rows for key, rows in whole.items() if key not in committed}
        at_once = rows_of(read(job_input, 1000))
        assert [content(row) for row in rows_of(whole)] == [content(row) for row in at_once]


def content(row: Any) -> tuple[Any, ...]:
    return row.id, row.fields, row.error


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@settings(max_examples=30, deadline=None)
@given(data=texts(), shard_rows=st.integers(1, 9), split_bytes=st.integers(200, 2000), draw=st.data())
def test_bytes_of_committed_shards_are_not_read_again(
    kind: str, data: bytes, shard_rows: int, split_bytes: int, draw: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, small_reads():
        path = write(folder, data, kind)
        job_input = source(path, kind, id_field="id")
        shards = sorted(read(job_input, shard_rows, split_bytes=split_bytes))
        committed = draw.draw(st.sets(st.sampled_from(shards)))
        for split in plan_splits(list_files(job_input), job_input, committed, split_bytes):
            raw = ObjectFile(split.file, job_input)
            list(read_split_tables(split, job_input, shard_rows, None, raw=raw))
            mine = [key for key in shards if key.split == split.index]
            missing, runs = missing_bytes(mine, committed, split.start, path.stat().st_size)
            # Each run of missing shards costs a read-ahead, and the line or header it begins in.
            longest = max(len(line) for line in [b"", *data.splitlines()]) + 10
            assert raw.bytes_read <= missing + (runs + 1) * (AHEAD + longest)
            assert raw.bytes_read <= (split.stop or path.stat().st_size) - split.start + 2 * (AHEAD + longest)


def missing_bytes(shards: list[ShardKey], committed: set[ShardKey], start: int, size: int) -> tuple[int, int]:
    count = runs = 0
    begin, before_is_missing = start, False
    for key in shards:
        if key not in committed:
            # Past the last row there may be blank lines.
            count += (size if key.last else key.end) - begin
            runs += not before_is_missing
        before_is_missing = key not in committed
        begin = key.end
    return count, runs


def test_a_resume_near_the_end_of_a_large_file_reads_its_end_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"id":%d,"text":"%s"}\n' % (n, b"x" * 1000) for n in range(40_000)))
    job_input = source(path, id_field="id")
    committed = sorted(read(job_input, 1000, split_bytes=2**40))[:-1]
    [split] = plan_splits(list_files(job_input), job_input, committed, 2**40)
    raw = ObjectFile(split.file, job_input)
    [(key, _)] = read_split_tables(split, job_input, 1000, None, raw=raw)
    assert (key.rows, key.last) == (1000, True)
    assert raw.bytes_read <= path.stat().st_size - committed[-1].end + objects.FIRST_READ


def test_a_resume_of_parquet_reads_the_row_groups_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [{"id": n, "text": f"{n * 7919 % 10007:05d}" * 200} for n in range(10_000)], row_group=500)
    job_input = source(path, "parquet", id_field="id")
    shards = sorted(read(job_input, 500))
    missing = shards.pop(7)
    [split] = plan_splits(list_files(job_input), job_input, shards)
    raw = ObjectFile(split.file, job_input)
    assert [key for key, _ in read_split_tables(split, job_input, 500, None, raw=raw)] == [missing]
    assert raw.bytes_read <= path.stat().st_size / 20 + 64 * 2**10 + 20_000
