"""How input is cut: files into splits, splits into shards, and which of them are still to do.

A split is what one read task reads: a byte range of a file. A shard is what is committed together: a run of rows of
one split. How both are cut is a function of the input, `shardRows` and the split size alone, so the same rows have
the same shard key in every attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Self

from llmbatch.api.job import Input
from llmbatch.errors import InternalError

SPLIT_BYTES = 32 * 2**20
"""Bytes of a split of plain text: seconds of reading, and at most one split's requests lost with a worker."""
PARQUET_SPLITS = 4
"""A Parquet split is so many times larger: 128 MiB is the usual size of a row group, which is not cut."""

Compression = Literal["gzip", "zstd"]
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, order=True, slots=True)
class ShardKey:
    """Names a shard, and says enough of it to plan a resume without opening anything. Sorts in input order."""

    file: int
    """Index of the file in the manifest."""
    split: int
    """Index of the split in the file."""
    seq: int
    """Index of the shard in the split."""
    end: int
    """Where the next shard begins: a byte of the file for plain text, else a row of the file."""
    rows: int
    """Rows in it. 0 only for the one shard of a split without rows."""
    last: bool
    """Whether it is the last shard of its split."""

    def __str__(self) -> str:
        mark = "l" if self.last else "m"
        return f"{self.file:08d}.{self.split:05d}.{self.seq:06d}.{self.end:x}.{self.rows}.{mark}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Undo `str`.

        Raises:
            InternalError: `text` is no shard key.
        """
        try:
            file, split, seq, end, rows, mark = text.split(".")
            key = cls(int(file), int(split), int(seq), int(end, 16), int(rows), mark == "l")
        except ValueError as error:
            raise InternalError(f"{text!r} is not a shard key") from error
        if str(key) != text:
            raise InternalError(f"{text!r} is not a shard key; the one of its parts is {key}")
        return key


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file, as the manifest remembers it."""

    index: int
    """Place in the sorted listing; shard keys name the file by it."""
    path: str
    """Relative to the part of `input.uri` before the first wildcard; generated ids begin with it."""
    uri: str
    """Full address, for people."""
    size: int
    """Bytes."""
    etag: str | None
    """The store's version mark: another one means other content."""


@dataclass(frozen=True, slots=True)
class Split:
    """What one read task reads: the rows that begin in a byte range of a file."""

    file: InputFile
    """The file."""
    index: int
    """Place in the file."""
    start: int
    """First byte."""
    stop: int | None
    """Byte after the last; None is the end of the file."""
    committed: tuple[ShardKey, ...] = ()
    """Its shards that need not be read again, in order."""


def compression(path: str) -> Compression | None:
    """Return how a file is compressed, by its suffix; None for plain."""
    return next((name for suffix, name in _COMPRESSIONS.items() if path.lower().endswith(suffix)), None)


def own_id_field(source: Input) -> str | None:
    """Return the field of a row that holds its id; None where ids are generated."""
    return "custom_id" if source.format == "openai" else source.id_field


def numbers_rows(path: str, source: Input) -> bool:
    """Tell whether a reader of the file knows each row's number in the file, or just its byte.

    Rows cannot be numbered where a text file is read in several parts at once; that needs rows with ids.
    """
    has_ids = own_id_field(source) is not None
    return not (source.format in ("jsonl", "openai") and has_ids and compression(path) is None)


def plan_splits(
    files: Iterable[InputFile],
    source: Input,
    committed: Iterable[ShardKey],
    split_bytes: int = SPLIT_BYTES,
) -> list[Split]:
    """Return the splits that have shards to do, in input order. Opens nothing.

    Args:
        files: The manifest's files.
        source: The job's input section.
        committed: The committed shards, in any order.
        split_bytes: Bytes of a split of plain text, as the manifest has it.

    Raises:
        InternalError: two different shards are committed as the same one.
    """
    done = _Committed()
    for key in committed:
        done.add(key)
    return [
        Split(file, index, start, stop, done.shards(file.index, index))
        for file in files
        for index, (start, stop) in enumerate(_ranges(file, source, split_bytes))
        if not done.is_complete(file.index, index)
    ]


def _ranges(file: InputFile, source: Input, split_bytes: int) -> Iterator[tuple[int, int | None]]:
    if source.format == "parquet":
        step = PARQUET_SPLITS * split_bytes
    elif numbers_rows(file.path, source):
        step = max(file.size, 1)
    else:
        step = split_bytes
    starts = range(0, max(file.size, 1), step)
    for start in starts:
        yield start, None if start == starts[-1] else start + step


class _Committed:
    """Committed shards by split. A split that is complete shrinks to one entry, for there may be 10^7 shards."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], dict[int, ShardKey]] = {}
        self._complete: set[tuple[int, int]] = set()

    def add(self, key: ShardKey) -> None:
        place = key.file, key.split
        if place in self._complete:
            return
        shards = self._open.setdefault(place, {})
        if shards.setdefault(key.seq, key) != key:
            raise InternalError(f"shards {shards[key.seq]} and {key} are committed for the same rows")
        # n different shards of which the one numbered n - 1 is the last are all there are.
        newest = shards.get(len(shards) - 1)
        if newest is not None and newest.last:
            del self._open[place]
            self._complete.add(place)

    def is_complete(self, file: int, split: int) -> bool:
        return (file, split) in self._complete

    def shards(self, file: int, split: int) -> tuple[ShardKey, ...]:
        return tuple(sorted(self._open.get((file, split), {}).values()))
