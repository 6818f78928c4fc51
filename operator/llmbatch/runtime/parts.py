"""Reading part files back."""

from __future__ import annotations

import hashlib
import io

import orjson
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


def ids_in(part: bytes, output_format: OutputFormat) -> list[str]:
    """Return the ids in a part file, in row order."""
    if output_format == "parquet":
        ids: list[str] = pq.read_table(io.BytesIO(part), columns=["id"]).column("id").to_pylist()
        return ids
    field = "custom_id" if output_format == "openai" else "id"
    return [orjson.loads(line)[field] for line in part.splitlines()]
