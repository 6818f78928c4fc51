"""The row as it travels through the pipeline: one fixed Arrow schema, whatever the input looks like.

Fields, outputs and errors travel as JSON text, so that rows of different shape never meet Arrow's type rules
(a field that is an int here and a string there), and every block of every stage has the same schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # str(ShardKey)
        ("start", pa.int64()),  # byte offset of the shard's first row where the file is seekable, else -1
        ("position", pa.int32()),  # 0-based place in the shard
        ("id", pa.string()),
        ("fields", pa.string()),  # JSON object: the input row
        ("outputs", pa.string()),  # JSON object: stage name -> Output of that stage
        ("error", pa.string()),  # JSON RowError, or "" while the row is well
        ("seconds", pa.float64()),  # replica-seconds that the stages spent on the row so far
    ]
)
COLUMNS = tuple(SCHEMA.names)


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row failed. A failed row skips the stages that are left and is committed as it is."""

    stage: str
    """The stage, or `input` when the row could not be read."""
    code: str
    """CamelCase word for programs, such as `InvalidRow`, `PromptError`, `ContextLengthExceeded`."""
    message: str
    """One sentence for people: for input errors with file and line or byte."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What one stage made of one row."""

    value: Any
    """str for generate; list[float] for embed and classify; float for score."""
    prompt_tokens: int = 0
    """Tokens the model read."""
    completion_tokens: int = 0
    """Tokens the model generated."""
    finish_reason: str = ""
    """`stop` or `length` for generate, else empty."""


@dataclass(slots=True)
class Row:
    """One row on its way."""

    shard: str
    start: int
    position: int
    id: str
    fields: dict[str, Any]
    outputs: dict[str, StageOutput] = field(default_factory=dict)
    error: RowError | None = None
    seconds: float = 0.0


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Pack rows into one Arrow table of `SCHEMA`."""
    rows = list(rows)
    columns = [
        [row.shard for row in rows],
        [row.start for row in rows],
        [row.position for row in rows],
        [row.id for row in rows],
        [dumps(row.fields) for row in rows],
        [dumps(row.outputs) for row in rows],
        [dumps(row.error) if row.error else "" for row in rows],
        [row.seconds for row in rows],
    ]
    arrays = [pa.array(values, type=kind.type) for values, kind in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Row]:
    """Unpack an Arrow table of `SCHEMA`; extra columns are ignored."""
    columns = [table.column(name).to_pylist() for name in COLUMNS]
    return [_unpack(*values) for values in zip(*columns, strict=True)]


def _unpack(
    shard: str, start: int, position: int, row_id: str, fields: str, outputs: str, error: str, seconds: float
) -> Row:
    return Row(
        shard,
        start,
        position,
        row_id,
        orjson.loads(fields),
        {name: StageOutput(**output) for name, output in orjson.loads(outputs).items()} if outputs != "{}" else {},
        RowError(**orjson.loads(error)) if error else None,
        seconds,
    )


def with_results(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    """Return the table that `rows` were unpacked from, in its order, with their outputs, errors and seconds of now.

    What a stage does not change is passed on as it came: fields are most of a row, and need not be packed again.
    """
    packed = {
        "outputs": [dumps(row.outputs) for row in rows],
        "error": [dumps(row.error) if row.error else "" for row in rows],
        "seconds": [row.seconds for row in rows],
    }
    columns = [
        pa.array(packed[kind.name], kind.type) if kind.name in packed else table.column(kind.name) for kind in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def dumps(value: Any) -> str:
    """JSON text of a row's part. Values JSON has no form for (dates, decimals, bytes) become strings."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(value, default=_as_text, option=options).decode()


def _as_text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
