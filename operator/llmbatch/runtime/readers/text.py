"""Records of text: lines of JSON and records of CSV, plain or compressed, with the place where each begins."""

from __future__ import annotations

import codecs
import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

import pyarrow as pa

from llmbatch.errors import InputError
from llmbatch.runtime.readers.objects import FIRST_READ, LARGEST_READ, ObjectFile
from llmbatch.runtime.shards import InputFile, ShardKey, Split, compression

MAX_RECORD_BYTES = 64 * 2**20
"""Longest line of JSON or record of CSV. Longer is another format, or a quote that is never closed."""

T = TypeVar("T")
CsvRecord: TypeAlias = list[str] | csv.Error


class ByteStream(Protocol):
    """What lines are read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""


class Lines:
    """Lines of a file, and where each begins."""

    def __init__(self, split: Split, raw: ObjectFile) -> None:
        codec = compression(split.file.path)
        self.file: InputFile = split.file
        self.seekable = codec is None
        """Whether `seek` works: not in a compressed file."""
        self.offset = 0
        """Where the next line begins, in bytes of the decompressed text."""
        self.number = 1
        """Number of the next line from 1; counts no line that was jumped over."""
        self._raw = raw
        self._stream: ByteStream = raw if codec is None else pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)
        self._buffer = b""
        self._at = 0
        self._ahead = FIRST_READ
        if codec is not None and split.file.size == 0:
            raise self._damaged("the file is empty")

    def readline(self) -> bytes:
        """Return the next line with its line end, nothing at the end of the file.

        Raises:
            InputError: the line is longer than `MAX_RECORD_BYTES`, or the file is damaged.
        """
        end = self._buffer.find(b"\n", self._at) + 1
        while end == 0:
            searched = len(self._buffer) - self._at
            if not self._fill():
                end = len(self._buffer)
                break
            end = self._buffer.find(b"\n", searched) + 1
        line = self._buffer[self._at : end]
        self._at = end
        self.offset += len(line)
        self.number += 1
        return line

    def seek(self, offset: int) -> None:
        """Go to the byte `offset`. Bytes that were read already are not read again."""
        within = self._at + offset - self.offset
        self.offset = offset
        if 0 <= within <= len(self._buffer):
            self._at = within
            return
        self._buffer, self._at, self._ahead = b"", 0, FIRST_READ
        self._stream.seek(offset)

    def skip_byte_order_mark(self) -> None:
        """Pass a UTF-8 byte order mark at the beginning of the file.

        Raises:
            InputError: the file is UTF-16.
        """
        while len(self._buffer) < len(codecs.BOM_UTF8) and self._fill():
            pass
        if self._buffer.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)):
            raise InputError.of("input.uri", self.file.uri, "text must be UTF-8; this file is UTF-16")
        if self._buffer.startswith(codecs.BOM_UTF8):
            self._at = self.offset = len(codecs.BOM_UTF8)

    def _fill(self) -> bool:
        if len(self._buffer) - self._at > MAX_RECORD_BYTES:
            raise InputError.of(
                "input.uri",
                self.file.uri,
                f"a row must be one line of at most {MAX_RECORD_BYTES} bytes; the one at byte {self.offset} is longer",
            )
        try:
            data = self._stream.read(self._ahead)
        except OSError as error:
            raise self._damaged(str(error)) from error
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        self._ahead = min(2 * self._ahead, LARGEST_READ)
        return len(data) > 0

    def _damaged(self, what: str) -> InputError:
        return InputError.of(
            "input.uri",
            self.file.uri,
            f"{what}: the compressed file is cut off or damaged after its line {self.number - 1} "
            f"(byte {self.offset} decompressed); repair it, rows committed before stay",
        )


class Records(ABC, Generic[T]):
    """The rows of one text split, in order."""

    def __init__(self, lines: Lines, split: Split) -> None:
        self.lines = lines
        self.rows = 0
        """Rows of the split taken or skipped so far."""
        self._split = split
        self._end = split.start
        self._begin()
        self._records = self._read()
        self._next: list[tuple[int, T]] = []

    @property
    def end(self) -> int:
        """What `ShardKey.end` is for a shard that ends here."""
        return self._end if self.lines.seekable else self.rows

    def more(self) -> bool:
        """Tell whether the split has another row."""
        if not self._next:
            self._next = list(islice(self._records, 1))
        return bool(self._next)

    def take(self, count: int) -> list[tuple[int, T]]:
        """Return up to `count` rows, each with the place where it begins: a byte, or a line if compressed."""
        taken = self._next
        taken += islice(self._records, count - len(taken))
        self._next = []
        if taken:
            self._end = self.lines.offset
        self.rows += len(taken)
        return taken

    def skip(self, shard: ShardKey) -> None:
        """Pass a shard: without reading it where the file can seek."""
        if self.lines.seekable:
            self._next = []
            self._end = shard.end
            self.rows += shard.rows
            self.lines.seek(shard.end)
        else:
            self.take(shard.rows)

    def where(self, place: int) -> str:
        """Return the words for a place that `take` gave."""
        return f"byte {place}" if self.lines.seekable else f"line {place}"

    @abstractmethod
    def _begin(self) -> None:
        """Go to the first row of the split."""

    @abstractmethod
    def _read(self) -> Iterator[tuple[int, T]]:
        """Yield row after row with its place, from wherever `lines` is by then."""

    def _place(self) -> int:
        return self.lines.offset if self.lines.seekable else self.lines.number


class JsonRecords(Records[bytes]):
    """Lines that are not blank, without their line ends."""

    def _begin(self) -> None:
        committed, start = self._split.committed, self._split.start
        if committed and committed[0].seq == 0 and self.lines.seekable:
            return  # the caller skips that shard, and comes to the right byte by it
        if start == 0:
            self.lines.skip_byte_order_mark()
            return
        # The row that begins before the split ends with the first line end from here on; it is not ours.
        self.lines.seek(start - 1)
        self.lines.readline()

    def _read(self) -> Iterator[tuple[int, bytes]]:
        lines = self.lines
        stop = math.inf if self._split.stop is None else self._split.stop
        while lines.offset < stop:
            place = lines.offset if lines.seekable else lines.number
            line = lines.readline()
            if not line:
                return
            if line := line.strip():
                yield place, line


class CsvRecords(Records[CsvRecord]):
    """Records of RFC 4180 below a header; a record that breaks its rules is the error that says so."""

    def _begin(self) -> None:
        csv.field_size_limit(MAX_RECORD_BYTES)  # the module's default is 128 KiB
        self._at_end = False
        self._begun_at = self._record_bytes = 0
        self._reader = csv.reader(self._text(), strict=True)
        self.lines.skip_byte_order_mark()
        self.header: list[str] = self._read_header()
        self._end = self.lines.offset

    def _read_header(self) -> list[str]:
        first = next(self._read(), None)
        if first is None:
            return []
        if isinstance(first[1], csv.Error):
            raise self._unusable(f"its header cannot be read: {first[1]}")
        header = first[1]
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise self._unusable(f"a header names each column once; it repeats {', '.join(map(repr, repeated))}")
        return header

    def _read(self) -> Iterator[tuple[int, CsvRecord]]:
        while True:
            self._begun_at, self._record_bytes = self._place(), 0
            try:
                record: CsvRecord | None = next(self._reader, None)
            except csv.Error as error:
                if self._at_end:
                    raise self._unclosed() from error
                record = error
            if record is None:
                return
            if record:
                yield self._begun_at, record

    def _text(self) -> Iterator[str]:
        while line := self.lines.readline():
            self._record_bytes += len(line)
            if self._record_bytes > MAX_RECORD_BYTES:
                raise self._unclosed()
            # A byte that is not UTF-8 must not end the record: it comes through, and the row is refused later.
            yield line.decode("utf-8", "surrogateescape")
        self._at_end = True

    def _unclosed(self) -> InputError:
        return self._unusable(f"the quoted field in the record at {self.where(self._begun_at)} is never closed")

    def _unusable(self, what: str) -> InputError:
        return InputError.of("input.uri", self.lines.file.uri, what)
