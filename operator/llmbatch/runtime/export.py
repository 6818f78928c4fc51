"""Merging the winning part files into one file, with flat memory."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from llmbatch.api.job import OutputFormat, Storage
from llmbatch.errors import OutputError
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.parts import read_part
from llmbatch.runtime.records import Winner
from llmbatch.runtime.rows import dumps
from llmbatch.runtime.storage import Folder, reporting

NAME = "destination"
READERS = 8
READ_AHEAD = 32
"""Part files in memory at a time, at most."""
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 64 << 20
"""A row group of a merged Parquet file is closed at this many rows or bytes in memory, whichever is first."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written."""

    destination: str
    """Where to."""
    rows: int
    """Rows."""
    size: int
    """Bytes."""


def export(ledger: Ledger, destination: str, ordered: bool = True, *, storage: Storage | None = None) -> ExportResult:
    """Merge the parts of a complete output into one file, which appears only when it is whole.

    Args:
        ledger: The ledger of a complete job.
        destination: Path or URI of the file. One that ends in .jsonl gets lines, also from a Parquet output; lines are
            compressed when it ends in .gz or .zst.
        ordered: Rows in input order; otherwise parts come as they arrive.
        storage: How to reach the destination; the output's own options when left out.

    Raises:
        OutputError: the job is not complete or has no rows, or the destination cannot be written or is called what
            it would not be.
        InternalError: a part is not what was committed.
    """
    parent, _, file_name = destination.rpartition("/")
    if not file_name:
        raise OutputError.of(NAME, destination, "it must name a file")
    home = parent or ("/" if destination.startswith("/") else ".")
    folder = Folder(home, storage or ledger.output.storage, name=NAME)
    is_parquet = ledger.output.format == "parquet"
    if (allowed := _misnamed(file_name, ledger.output.format)) is not None:
        raise OutputError.of(NAME, destination, allowed)
    with _sink(folder, file_name) as sink:
        parts = _parts(ledger, ordered)
        if is_parquet and not _plain(file_name).endswith(".jsonl"):
            rows = _merge_parquet(parts, sink)
        else:
            rows = _merge_lines(map(_as_lines, parts) if is_parquet else parts, sink, file_name)
        if rows == 0:
            raise OutputError.of("output.uri", ledger.output.uri, "there are no rows to export")
    return ExportResult(destination, rows, sink.tell())


def _misnamed(file_name: str, output_format: OutputFormat) -> str | None:
    """Return what is allowed where a file would not be what its name says; None where it would."""
    plain = _plain(file_name)
    if plain.endswith(".csv"):
        return "no CSV is written: name a .jsonl file"
    if output_format != "parquet":
        return f"the output is {output_format}: name a .jsonl file" if plain.endswith(".parquet") else None
    if plain != file_name and not plain.endswith(".jsonl"):
        return "Parquet compresses inside: name a .parquet file, or .jsonl with this ending"
    return None


class _Sink(io.RawIOBase):
    """A file object over obstore's writer, with the position pyarrow asks for."""

    def __init__(self, writer: Any, folder: Folder) -> None:
        self._writer = writer
        self._folder = folder
        self._position = 0

    def write(self, data: Any) -> int:
        with reporting(self._folder.name, self._folder.uri):
            self._writer.write(data)
        size = memoryview(data).nbytes
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def writable(self) -> bool:
        return True


@contextmanager
def _sink(folder: Folder, file_name: str) -> Iterator[_Sink]:
    # Leaving the writer by an exception aborts the upload: no half a file.
    with (
        reporting(folder.name, folder.uri, key=file_name),
        obstore.open_writer(folder.store, file_name) as writer,
    ):
        yield _Sink(writer, folder)


def _parts(ledger: Ledger, ordered: bool) -> Iterator[tuple[Winner, bytes]]:
    with ThreadPoolExecutor(READERS, thread_name_prefix="export") as pool:
        running: deque[Future[tuple[Winner, bytes]]] = deque()
        for winner in ledger.winners():
            running.append(pool.submit(_read, ledger, winner))
            if len(running) >= READ_AHEAD:
                yield _take(running, ordered)
        while running:
            yield _take(running, ordered)


def _read(ledger: Ledger, winner: Winner) -> tuple[Winner, bytes]:
    return winner, read_part(ledger.folder, winner.data, winner.sha256)


def _take(running: deque[Future[tuple[Winner, bytes]]], ordered: bool) -> tuple[Winner, bytes]:
    if ordered:
        return running.popleft().result()
    done = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
    running.remove(done)
    return done.result()


def _merge_lines(parts: Iterator[tuple[Winner, bytes]], sink: _Sink, file_name: str) -> int:
    compression = next((name for suffix, name in COMPRESSIONS.items() if file_name.endswith(suffix)), None)
    rows = 0
    with _compressed(sink, compression) as stream:
        for winner, data in parts:
            stream.write(data)
            rows += winner.rows
    return rows


def _plain(file_name: str) -> str:
    """Return a file name without the ending of a compression."""
    suffix = next((suffix for suffix in COMPRESSIONS if file_name.endswith(suffix)), "")
    return file_name.removesuffix(suffix)


def _as_lines(part: tuple[Winner, bytes]) -> tuple[Winner, bytes]:
    """Return a Parquet part as the lines that a `jsonl` output has."""
    winner, data = part
    records = pq.read_table(io.BytesIO(data)).to_pylist()
    for record in records:
        if "input" in record:
            record["input"] = json.loads(record["input"])
    return winner, "".join(f"{dumps(record)}\n" for record in records).encode()


@contextmanager
def _compressed(sink: _Sink, compression: str | None) -> Iterator[Any]:
    if compression is None:
        yield sink
        return
    with pa.CompressedOutputStream(pa.PythonFile(sink, mode="w"), compression) as stream:
        yield stream


def _merge_parquet(parts: Iterator[tuple[Winner, bytes]], sink: _Sink) -> int:
    rows = 0
    writer: pq.ParquetWriter | None = None
    for group in _row_groups(parts):
        if writer is None:
            writer = pq.ParquetWriter(sink, group.schema, compression="zstd")
        writer.write_table(group, row_group_size=len(group))
        rows += len(group)
    if writer is not None:
        writer.close()
    return rows


def _row_groups(parts: Iterator[tuple[Winner, bytes]]) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    rows = size = 0
    for _, data in parts:
        table = pq.read_table(io.BytesIO(data))
        pending.append(table)
        rows += len(table)
        size += table.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(pending)
            pending, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(pending)
