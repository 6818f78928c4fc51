"""Cutting a split into shards: tables of `rows.SCHEMA`, each with its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from llmbatch.api.job import Input
from llmbatch.errors import DuplicateIdError, InputError
from llmbatch.runtime.readers.decode import (
    Decoded,
    Fields,
    csv_decoder,
    json_decoder,
    openai_decoder,
    parquet_decoder,
)
from llmbatch.runtime.readers.objects import ObjectFile
from llmbatch.runtime.readers.parquet import ParquetRows, missing_runs
from llmbatch.runtime.readers.text import CsvRecords, JsonRecords, Lines, Records
from llmbatch.runtime.rows import SCHEMA, RowError, dumps
from llmbatch.runtime.shards import ShardKey, Split, numbers_rows, own_id_field

Placed = tuple[int, Any]
"""A record and the place where it begins: a byte, a line or a row."""


def read_split_tables(
    split: Split, source: Input, shard_rows: int, keep: Fields, *, raw: ObjectFile | None = None
) -> Iterator[tuple[ShardKey, pa.Table]]:
    """Yield the shards of a split that are not committed yet, each as one table of `rows.SCHEMA`.

    Memory is that of one shard and of one read-ahead. Committed shards are not read in plain text and in Parquet;
    in a compressed file they are passed over. A split without rows yields one shard without rows, whose commit
    says that the split is done.

    Args:
        split: What to read, and what of it is committed.
        source: The job's input section.
        shard_rows: Most rows of a shard.
        keep: Names of the fields that travel on, None for all.
        raw: The split's file, where the caller has it open.

    Raises:
        InputError: the file is gone, changed, damaged or of another format, or a row is invalid and
            `input.onInvalidRow` is `fail`.
        DuplicateIdError: two rows of a shard have the same id.
        StorageBusyError: the store answers no more, retries included.
    """
    raw = raw or ObjectFile(split.file, source)
    if source.format == "parquet":
        yield from _parquet_shards(split, source, shard_rows, keep, raw)
    else:
        yield from _text_shards(split, source, shard_rows, keep, raw)


def _text_shards(
    split: Split, source: Input, shard_rows: int, keep: Fields, raw: ObjectFile
) -> Iterator[tuple[ShardKey, pa.Table]]:
    records, decode = _open_text(split, source, keep, raw)
    builder = _Builder(split, source, decode, records.where)
    committed = {key.seq: key for key in split.committed}
    for seq in count():
        key = committed.get(seq)
        if key is not None:
            records.skip(key)
        else:
            first = records.rows
            taken = records.take(shard_rows)
            last = seq + 1 not in committed and not records.more()
            key = ShardKey(split.file.index, split.index, seq, records.end, len(taken), last)
            yield key, builder.table(key, taken, first, seekable=records.lines.seekable)
        if key.last:
            return


def _open_text(
    split: Split, source: Input, keep: Fields, raw: ObjectFile
) -> tuple[Records[Any], Callable[[Any], Decoded]]:
    lines = Lines(split, raw)
    if source.format == "csv":
        records = CsvRecords(lines, split)
        _check_id_field(source, records.header, split)
        return records, csv_decoder(records.header, source.id_field, keep)
    decode = openai_decoder(keep) if source.format == "openai" else json_decoder(source.id_field, keep)
    return JsonRecords(lines, split), decode


def _parquet_shards(
    split: Split, source: Input, shard_rows: int, keep: Fields, raw: ObjectFile
) -> Iterator[tuple[ShardKey, pa.Table]]:
    columns = keep if keep is None or source.id_field is None else keep | {source.id_field}
    parquet = ParquetRows(split, raw, columns)
    _check_id_field(source, parquet.names, split)
    builder = _Builder(split, source, parquet_decoder(source.id_field, keep), lambda row: f"row {row}")
    first, end = parquet.first, parquet.end
    for run in missing_runs(split, end - first, shard_rows):
        tables = parquet.tables(first + run.start * shard_rows, min(first + run.stop * shard_rows, end), shard_rows)
        for seq in run:
            begin = first + seq * shard_rows
            stop = min(begin + shard_rows, end)
            key = ShardKey(split.file.index, split.index, seq, stop, stop - begin, last=stop == end)
            taken = list(enumerate(parquet.records(next(tables)), start=begin)) if key.rows else []
            yield key, builder.table(key, taken, begin, seekable=False)


def _check_id_field(source: Input, names: Sequence[str], split: Split) -> None:
    if source.id_field is not None and names and source.id_field not in names:
        columns = ", ".join(names)
        raise InputError.of(
            "input.idField", source.id_field, f"it must be a column of {split.file.uri}, which has {columns}"
        )


class _Builder:
    """Makes tables of the records of one split."""

    def __init__(
        self, split: Split, source: Input, decode: Callable[[Any], Decoded], where: Callable[[int], str]
    ) -> None:
        self._file = split.file
        self._source = source
        self._decode = decode
        self._where = where
        self._numbered = numbers_rows(split.file.path, source)
        self._id_field = own_id_field(source)

    def table(self, key: ShardKey, taken: Sequence[Placed], first: int, *, seekable: bool) -> pa.Table:
        """Return a shard's rows. `first` is the number in the file of the first one, where rows are numbered."""
        size = len(taken)
        decode = self._decode
        decoded = [decode(record) for _, record in taken]
        ids = [row_id for row_id, _, _ in decoded]
        if not all(ids):
            ids = [row_id or self._generated_id(taken[n][0], first + n) for n, row_id in enumerate(ids)]
        if self._id_field is not None and self._source.unique_ids == "check":
            self._refuse_repeated(ids, taken)
        errors = [problem and self._error(problem, taken[n][0]) for n, (_, _, problem) in enumerate(decoded)]
        columns = [
            pa.repeat(str(key), size),
            pa.repeat(pa.scalar(taken[0][0] if taken and seekable else -1, pa.int64()), size),
            pa.array(np.arange(size, dtype=np.int32)),
            pa.array(ids, pa.string()),
            pa.array([fields for _, fields, _ in decoded], pa.string()),
            pa.array(errors, pa.string()) if any(errors) else pa.repeat("", size),
            pa.repeat(0.0, size),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def _generated_id(self, place: int, row: int) -> str:
        return f"{self._file.path}:{row}" if self._numbered else f"{self._file.path}@{place}"

    def _error(self, problem: str, place: int) -> str:
        where = self._where(place)
        if self._source.on_invalid_row == "fail":
            raise InputError.of(
                "input.uri",
                f"{self._file.uri} at {where}",
                f"{problem}; repair the row, or set input.onInvalidRow: record",
            )
        return dumps(RowError("input", "InvalidRow", f"{self._file.uri} at {where}: {problem}"))

    def _refuse_repeated(self, ids: Sequence[str], taken: Sequence[Placed]) -> None:
        if len(set(ids)) == len(ids):
            return
        seen: dict[str, int] = {}
        for row_id, (place, _) in zip(ids, taken, strict=True):
            if row_id in seen:
                raise DuplicateIdError.of(
                    f"input.{self._id_field}",
                    row_id,
                    f"ids must be unique; {self._file.uri} has it at {self._where(seen[row_id])} and at "
                    f"{self._where(place)}",
                )
            seen[row_id] = place


def first_fields(split: Split, source: Input, most: int) -> tuple[frozenset[str], str]:
    """Return the names of the fields that a split's first rows have, and the first error among them, as text.

    Raises:
        InputError: as `read_split_tables`.
        DuplicateIdError: two of the rows have the same id.
        StorageBusyError: the store answers no more, retries included.
    """
    is_parquet = source.format == "parquet"
    columns = ParquetRows(split, ObjectFile(split.file, source), None).names if is_parquet else None
    # A column that no prompt needs may hold what cannot be read.
    keep = None if columns is None else frozenset[str]()
    _, table = next(read_split_tables(split, source, most, keep))
    rows: list[dict[str, Any]] = table.select(["fields", "error"]).to_pylist()
    problems = [orjson.loads(row["error"])["message"] for row in rows if row["error"]]
    names = {name for row in rows if not row["error"] for name in orjson.loads(row["fields"])}
    if columns is not None and len(problems) < len(rows):
        names = set(columns)
    return frozenset(names), problems[0] if problems else ""
