"""One record after another out of a file, whatever its format and compression.

A record that cannot be read is a record with an error: rows are never dropped in silence. A file that breaks
off in the middle is an error of the whole job, because nobody knows how many rows are missing.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

import obstore
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from llmbatch.api.job import Input
from llmbatch.errors import InputError
from llmbatch.runtime.shards import InputFile, Split, is_seekable_text
from llmbatch.runtime.storage import open_store, reporting

READ_BYTES = 4 * 1024 * 1024
"""Read ahead this much; what a resume may read beyond the shards it needs."""
LONGEST_LINE = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Record:
    """One record of a file."""

    row: int
    """0-based number among the records its split has."""
    start: int
    """Where it starts: byte offset in seekable text, else its row number."""
    end: int
    """Where the next one starts, likewise."""
    place: str
    """Where it is, for people."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Its fields; empty when it cannot be read."""
    problem: str = ""
    """Why it cannot be read."""


def records(
    split: Split, source: Input, *, columns: frozenset[str] | None, start: int | None = None, first: int = 0
) -> Iterator[Record]:
    """Yield the records of a split.

    Args:
        split: What to read.
        source: The job's input section.
        columns: Fields that are needed; None for all.
        start: Where to begin: the end of the last record that is not needed.
        first: The number of the record at `start`.

    Raises:
        InputError: the file is missing, broken off, or not of this format.
    """
    with _opened(split.file, source) as raw:
        if source.format == "parquet":
            yield from _parquet(raw, split.file, columns, first)
        elif source.format == "csv":
            yield from _csv(_decompressed(raw, split.file), split.file, first)
        elif is_seekable_text(split.file, source):
            yield from _lines(raw, split, start, first)
        else:
            numbered = enumerate(_stream_lines(_decompressed(raw, split.file), split.file))
            for row, (line, place) in numbered:
                if row >= first:
                    yield _parse(line, Record(row, row, row + 1, place))


class _Raw(io.RawIOBase):
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _opened(file: InputFile, source: Input) -> io.BufferedReader:
    base = file.uri.removesuffix(file.path).rstrip("/") or "/"
    try:
        with reporting("input.uri", file.uri):
            store = open_store(base, source.storage, name="input.uri")
            reader = obstore.open_reader(store, file.path, buffer_size=READ_BYTES)
    except FileNotFoundError as error:
        raise InputError.of("input.uri", file.uri, "the file does not exist") from error
    return io.BufferedReader(_Raw(reader), READ_BYTES)


def _decompressed(raw: io.BufferedReader, file: InputFile) -> io.BufferedIOBase:
    if file.path.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if file.path.endswith(".zst"):
        return io.BufferedReader(_Zstd(raw), READ_BYTES)
    return raw


class _Zstd(io.RawIOBase):
    """Frames one after another, and an error when the last one breaks off, which zstandard's reader hides."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._pending = b""
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = self._input or self._raw.read(1 << 18)
            self._input = b""
            if not chunk:
                if self._started:
                    raise EOFError("the last zstd frame breaks off")
                return 0
            self._pending = self._frame.decompress(chunk)
            self._started = not self._frame.eof
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def _lines(raw: io.BufferedReader, split: Split, start: int | None, first: int) -> Iterator[Record]:
    offset = split.start if start is None else start
    raw.seek(offset)
    if start is None and split.start > 0:
        # The line that crosses into this split belongs to the one before, unless it starts right here.
        raw.seek(split.start - 1)
        offset = split.start - 1 + len(raw.readline(LONGEST_LINE))
    row = first
    while split.stop is None or offset < split.stop:
        line = raw.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) >= LONGEST_LINE:
            raise InputError.of(
                "input.uri", split.file.uri, f"the line at byte {offset} exceeds {LONGEST_LINE} bytes"
            )
        text = line.removeprefix(_BOM) if offset == 0 else line
        if text.strip():
            place = f"{split.file.uri} byte {offset}"
            if split.stop is None or split.start == 0:
                place += f" (row {row})"
            yield _parse(text, Record(row, offset, offset + len(line), place))
            row += 1
        offset += len(line)


def _stream_lines(stream: io.BufferedIOBase, file: InputFile) -> Iterator[tuple[bytes, str]]:
    number = 0
    try:
        for line in stream:
            number += 1
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield text, f"{file.uri} line {number}"
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise _broken(file, f"after line {number}", error) from error


def _broken(file: InputFile, where: str, error: Exception) -> InputError:
    return InputError(
        f"input.uri: {file.uri!r}: the file breaks off or is damaged {where} ({error}); write it again whole"
    )


def _parse(line: bytes, record: Record) -> Record:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        record.problem = f"{record.place}: not JSON: {error}"
        return record
    if isinstance(value, dict):
        record.fields = value
    else:
        record.problem = f"{record.place}: a row must be a JSON object, got {type(value).__name__}"
    return record


def _csv(stream: io.BufferedIOBase, file: InputFile, first: int) -> Iterator[Record]:
    text = io.TextIOWrapper(cast("IO[bytes]", stream), encoding="utf-8-sig", newline="")
    reader = csv.reader(text)
    row = 0
    try:
        header = next(reader, None) or []
        if len(set(header)) != len(header):
            raise InputError.of("input.uri", file.uri, f"the header must name each column once, got {header}")
        for values in reader:
            if not values:
                continue
            if row >= first:
                record = Record(row, row, row + 1, f"{file.uri} line {reader.line_num}")
                if len(values) == len(header):
                    record.fields = dict(zip(header, values, strict=True))
                else:
                    record.problem = f"{record.place}: {len(values)} values, the header has {len(header)}"
                yield record
            row += 1
    except UnicodeDecodeError as error:
        raise InputError.of("input.uri", file.uri, f"must be UTF-8: {error}") from error
    except (csv.Error, EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise _broken(file, f"after row {row}", error) from error


def _parquet(
    raw: io.BufferedReader, file: InputFile, columns: frozenset[str] | None, first: int
) -> Iterator[Record]:
    try:
        table = pq.ParquetFile(raw)
        names = [name for name in table.schema_arrow.names if columns is None or name in columns]
        row = 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if row + count > first:
                for batch in table.iter_batches(batch_size=1024, row_groups=[group], columns=names):
                    for offset, fields in enumerate(batch.to_pylist(), start=row):
                        if offset >= first:
                            yield Record(offset, offset, offset + 1, f"{file.uri} row {offset}", fields)
                    row += batch.num_rows
            else:
                row += count
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError.of("input.uri", file.uri, f"must be a whole Parquet file: {error}") from error
