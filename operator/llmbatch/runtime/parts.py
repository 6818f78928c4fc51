"""Reading part files back."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llmbatch.api.job import OutputFormat
from llmbatch.errors import InternalError
from llmbatch.runtime.storage import Folder


def read_part(folder: Folder, key: str, sha256: str) -> bytes:
    """Return the bytes of a committed part file.

    Raises:
        InternalError: the file is gone or is not the one that was committed.
    """
    data = folder.read(key)
    if data is None:
        raise InternalError(f"{key} is committed, and gone from {folder.uri}: who deleted it?")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InternalError(f"{key} in {folder.uri} is not the file that was committed: who changed it?")
    return data


def failed_in(part: bytes, output_format: OutputFormat) -> frozenset[int]:
    """Return the positions of the rows with an error in a part file."""
    if output_format == "parquet":
        errors = pq.read_table(io.BytesIO(part), columns=["error"]).column("error").to_pylist()
    else:
        errors = [orjson.loads(line)["error"] for line in part.splitlines()]
    return frozenset(position for position, error in enumerate(errors) if error is not None)


def with_replaced(part: bytes, fresh: bytes, positions: Sequence[int], output_format: OutputFormat) -> bytes:
    """Return a part file with the rows at `positions` replaced by those of `fresh`, in order."""
    if output_format != "parquet":
        lines = part.splitlines(keepends=True)
        for position, line in zip(positions, fresh.splitlines(keepends=True), strict=True):
            lines[position] = line
        return b"".join(lines)
    before = pq.read_table(io.BytesIO(part))
    places = list(range(len(before)))
    for number, position in enumerate(positions):
        places[position] = len(before) + number
    buffer = io.BytesIO()
    rows = pa.concat_tables([before, pq.read_table(io.BytesIO(fresh))]).combine_chunks().take(places)
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def ids_in(part: bytes, output_format: OutputFormat) -> list[str]:
    """Return the ids in a part file, in row order."""
    if output_format == "parquet":
        ids: list[str] = pq.read_table(io.BytesIO(part), columns=["id"]).column("id").to_pylist()
        return ids
    field = "custom_id" if output_format == "openai" else "id"
    return [orjson.loads(line)[field] for line in part.splitlines()]
