"""Input files for the tests, and reading them whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmbatch.api.job import Input
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.rows import SCHEMA, Row, from_table
from llmbatch.runtime.shards import SPLIT_BYTES, ShardKey, plan_splits

Shards = dict[ShardKey, list[Row]]


def compress(data: bytes, codec: str) -> bytes:
    """Return one gzip or zstd member."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def json_lines(records: list[dict[str, Any]]) -> bytes:
    """Return the records as lines of JSON."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def write_parquet(path: Path, records: list[dict[str, Any]], row_group: int = 1000) -> None:
    """Write the records as a Parquet file."""
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=row_group)


def source(uri: object, input_format: str = "jsonl", **options: Any) -> Input:
    """Return an input section."""
    return Input.model_validate({"uri": str(uri), "format": input_format, **options})


def read(
    job_input: Input,
    shard_rows: int = 100,
    *,
    keep: frozenset[str] | None = None,
    committed: tuple[ShardKey, ...] = (),
    split_bytes: int = SPLIT_BYTES,
) -> Shards:
    """Return the shards that are not committed, with their rows."""
    found: Shards = {}
    for split in plan_splits(list_files(job_input), job_input, committed, split_bytes):
        for key, table in read_split_tables(split, job_input, shard_rows, keep):
            assert table.schema == SCHEMA
            assert key not in found
            assert key not in committed
            rows = from_table(table)
            assert [row.position for row in rows] == list(range(key.rows))
            assert {row.shard for row in rows} <= {str(key)}
            found[key] = rows
    return found


def rows_of(shards: Shards) -> list[Row]:
    """Return all rows in input order."""
    return [row for key in sorted(shards) for row in shards[key]]


def rows(job_input: Input, shard_rows: int = 100, **options: Any) -> list[Row]:
    """Return all rows of an input."""
    return rows_of(read(job_input, shard_rows, **options))
