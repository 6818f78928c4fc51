"""Rows of a Parquet file: only the row groups that are needed are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from llmbatch.errors import InputError
from llmbatch.runtime.readers.objects import LARGEST_READ, ObjectFile
from llmbatch.runtime.shards import InputFile, Split

ParquetRecord: TypeAlias = dict[str, Any] | ValueError
UNREADABLE = (ValueError, OverflowError, KeyError)
"""What Arrow raises for a value that Python does not hold: a date far off, bad UTF-8, a key twice in a map."""


class ParquetRows:
    """The row groups that begin in the byte range of a split, cut into shards.

    Args:
        split: Which part of the file.
        raw: The file.
        columns: Names of the columns to read, None for all; one that is not there is left out.

    Raises:
        InputError: the file is not Parquet.
    """

    def __init__(self, split: Split, raw: ObjectFile, columns: frozenset[str] | None) -> None:
        self._file: InputFile = split.file
        with self._readable():
            # Column chunks are read in pieces: a row group can be larger than memory.
            self._parquet = pq.ParquetFile(pa.PythonFile(raw, "r"), buffer_size=LARGEST_READ)
        self.names: list[str] = self._parquet.schema_arrow.names
        self._columns = [name for name in self.names if columns is None or name in columns]
        meta = self._parquet.metadata
        rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        stop = split.file.size if split.stop is None else split.stop
        begins = [_first_byte(meta.row_group(group)) for group in range(meta.num_row_groups)]
        self._groups = [group for group, begin in enumerate(begins) if split.start <= begin < stop]
        self._rows = {group: rows[group] for group in self._groups}
        self.first = sum(rows[: self._groups[0]]) if self._groups else 0
        """Number in the file of the split's first row."""
        self.end = self.first + sum(self._rows.values())
        """Number in the file of the row after the split's last."""

    def tables(self, start: int, end: int, size: int) -> Iterator[pa.Table]:
        """Read the rows `start` to `end` of the file, as tables of `size` rows and one of the rest.

        Raises:
            InputError: the file is damaged.
        """
        groups, skip = self._groups_of(start, end)
        pending: list[pa.RecordBatch] = []
        held, left = 0, end - start
        for batch in self._batches(groups, size):
            rows = batch.slice(skip)
            skip = max(0, skip - batch.num_rows)
            rows = rows.slice(0, left)
            left -= rows.num_rows
            pending.append(rows)
            held += rows.num_rows
            while held >= size or (left == 0 and held > 0):
                table = pa.Table.from_batches(pending)
                yield table.slice(0, size)
                held = max(0, held - size)
                pending = table.slice(size).to_batches()
            if left == 0:
                return
        if left > 0:
            raise self._damaged(f"row {end - left} is not there")

    def records(self, table: pa.Table) -> list[ParquetRecord]:
        """Return a table's rows as Python values, or what is wrong with one of them.

        Nanoseconds are cut to microseconds: Python holds no more.
        """
        if not self._columns:
            return [{} for _ in range(len(table))]
        with self._readable():
            plain = _to_plain(table)
            try:
                return plain.to_pylist(maps_as_pydicts="strict")  # type: ignore[no-any-return]
            except UNREADABLE:
                return [_record(plain.slice(row, 1)) for row in range(len(plain))]

    def _groups_of(self, start: int, end: int) -> tuple[list[int], int]:
        groups: list[int] = []
        skip, row = 0, self.first
        for group, rows in self._rows.items():
            if row < end and row + rows > start:
                if not groups:
                    skip = start - row
                groups.append(group)
            row += rows
        return groups, skip

    def _batches(self, groups: list[int], size: int) -> Iterator[pa.RecordBatch]:
        if not groups:
            return
        if not self._columns:
            # Arrow reads no rows where it reads no column.
            for group in groups:
                yield pa.record_batch([pa.nulls(self._rows[group])], names=[""])
            return
        with self._readable():
            yield from self._parquet.iter_batches(size, row_groups=groups, columns=self._columns, use_threads=False)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error).partition("\n")[0]) from error

    def _damaged(self, what: str) -> InputError:
        return InputError.of("input.uri", self._file.uri, f"{what}; it must be a whole and undamaged Parquet file")


def missing_runs(split: Split, rows: int, shard_rows: int) -> Iterator[range]:
    """Yield the runs of shards, by `seq`, that a Parquet split of so many rows has to do."""
    start = 0
    for seq in [*(key.seq for key in split.committed), max(1, -(-rows // shard_rows))]:
        if seq > start:
            yield range(start, seq)
        start = seq + 1


def _record(row: pa.Table) -> ParquetRecord:
    record = {}
    for name, column in zip(row.column_names, row.columns, strict=True):
        try:
            [record[name]] = column.to_pylist(maps_as_pydicts="strict")
        except UNREADABLE as error:
            return ValueError(f"its value in {name!r} cannot be read: {error}")
    return record


def _to_plain(table: pa.Table) -> pa.Table:
    fields = [pa.field(field.name, _plain(field.type), field.nullable) for field in table.schema]
    return table.cast(pa.schema(fields), safe=False)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain_field(kind.item_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _first_byte(group: pq.RowGroupMetaData) -> int:
    if group.num_columns == 0:
        return 0
    column = group.column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)
