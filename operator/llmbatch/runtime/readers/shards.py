"""Cutting a split into shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from llmbatch.api.job import Input
from llmbatch.errors import DuplicateIdError, InputError
from llmbatch.runtime.readers.formats import Record, records
from llmbatch.runtime.rows import Row, RowError, to_table
from llmbatch.runtime.shards import ShardKey, Split, is_seekable_text


def read_split_tables(
    split: Split, source: Input, shard_rows: int, keep: frozenset[str] | None
) -> Iterator[tuple[ShardKey, pa.Table]]:
    """Yield the shards of a split that are not committed, as tables of `rows.SCHEMA`.

    Committed rows are passed over by seeking in plain text and by row groups in Parquet; a compressed stream
    and CSV have to be read to get past them. A split without rows is one empty shard.

    Args:
        split: What to read.
        source: The job's input section.
        shard_rows: Most rows of a shard.
        keep: Fields to carry; None for all.

    Raises:
        InputError: the input cannot be read as described, or `onInvalidRow: fail` and a row is invalid.
        DuplicateIdError: a shard has an id twice.
    """
    columns = None if keep is None else keep | {_id_field(source) or ""}
    for first, start, stop in _gaps(split):
        pending: list[Record] = []
        seq = first
        for record in records(split, source, columns=columns, start=start, first=first * shard_rows):
            if len(pending) == shard_rows:
                yield _shard(split, source, seq, pending, keep, last=False)
                pending, seq = [], seq + 1
                if seq == stop:
                    break
            pending.append(record)
        else:
            yield _shard(split, source, seq, pending, keep, last=True)


def _gaps(split: Split) -> Iterator[tuple[int, int | None, int | None]]:
    """Yield (first missing shard, where it starts, next committed shard) for each run of missing ones."""
    ends = {key.seq: key.end for key in split.committed}
    seqs = sorted(ends)
    if not seqs:
        yield 0, None, None
        return
    if seqs[0] > 0:
        yield 0, None, seqs[0]
    for before, after in zip(seqs, [*seqs[1:], None], strict=True):
        closed = after is None and split.committed[-1].last
        if not closed and after != before + 1:
            yield before + 1, ends[before], after


def _shard(
    split: Split, source: Input, seq: int, pending: list[Record], keep: frozenset[str] | None, *, last: bool
) -> tuple[ShardKey, pa.Table]:
    end = pending[-1].end if pending else split.start
    key = ShardKey(split.file.index, split.index, seq, end, len(pending), last)
    name = str(key)
    rows = [_row(record, position, name, split, source, keep) for position, record in enumerate(pending)]
    _refuse_repeated(rows, pending, source)
    return key, to_table(rows)


def _row(
    record: Record, position: int, shard: str, split: Split, source: Input, keep: frozenset[str] | None
) -> Row:
    start = record.start if is_seekable_text(split.file, source) else -1
    fields, problem = record.fields, record.problem
    if not problem and source.format == "openai":
        fields, problem = _openai(fields, record)
    row_id, missing = _row_id(record, split, source)
    problem = problem or missing
    if problem and source.on_invalid_row == "fail":
        raise InputError(f"input.onInvalidRow: 'fail': {problem}")
    if keep is not None:
        fields = {name: value for name, value in fields.items() if name in keep}
    error = RowError("input", "InvalidRow", problem) if problem else None
    return Row(shard, start, position, row_id, {} if problem else fields, error=error)


def _openai(fields: dict[str, Any], record: Record) -> tuple[dict[str, Any], str]:
    body = fields.get("body")
    if not isinstance(body, dict) or not ("messages" in body or "input" in body):
        return fields, f"{record.place}: a request needs body.messages or body.input"
    lifted = {name: body[name] for name in ("messages", "input", "model") if name in body}
    return {**fields, **lifted}, ""


def _id_field(source: Input) -> str | None:
    return "custom_id" if source.format == "openai" else source.id_field


def _row_id(record: Record, split: Split, source: Input) -> tuple[str, str]:
    name = _id_field(source)
    number = record.row if split.stop is None else f"byte-{record.start}"
    generated = f"{split.file.path}:{number}"
    if name is None or record.problem:
        return generated, ""
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return generated, f"{record.place}: {name} must be a string or an integer, got {value!r}"
    return str(value), ""


def _refuse_repeated(rows: list[Row], pending: list[Record], source: Input) -> None:
    if source.unique_ids == "trust" or len({row.id for row in rows}) == len(rows):
        return
    order = sorted(range(len(rows)), key=lambda index: rows[index].id)
    for row_id, group in groupby(order, key=lambda index: rows[index].id):
        places = [pending[index].place for index in group]
        if len(places) > 1:
            raise DuplicateIdError.of(
                f"input.{_id_field(source)}",
                row_id,
                f"ids must be unique; {places[0]} and {places[1]} have it",
            )
