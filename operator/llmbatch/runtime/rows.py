"""The rows as they travel through the pipeline: Arrow tables of `SCHEMA`, and four columns more for each stage passed.

Fields and errors travel as JSON text, so that rows of different shape never meet Arrow's type rules (a field that is
an int here and a string there). What a stage makes has a type of its own: whole columns of it go through later stages
and into a part file, and nobody takes them apart on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import repeat
from operator import or_
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from llmbatch.api.job import Stage, TaskName

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # str(ShardKey)
        ("start", pa.int64()),  # byte offset of the shard's first row where the file is seekable, else -1
        ("position", pa.int32()),  # 0-based place in the shard
        ("id", pa.string()),
        ("fields", pa.string()),  # JSON object: the input row
        ("error", pa.string()),  # JSON RowError, or "" while the row is well
        ("seconds", pa.float64()),  # replica-seconds that the stages spent on the row so far
    ]
)
VALUE_TYPES: dict[TaskName, pa.DataType] = {
    "generate": pa.string(),
    "embed": pa.list_(pa.float64()),
    "classify": pa.list_(pa.float64()),
    "score": pa.float64(),
}
TokenPart: TypeAlias = Literal["prompt_tokens", "completion_tokens"]
OutputPart: TypeAlias = TokenPart | Literal["value", "finish_reason"]
TOKEN_PARTS: tuple[TokenPart, TokenPart] = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row failed. A failed row skips the stages that are left and is committed as it is."""

    stage: str
    """The stage, or `input` when the row could not be read."""
    code: str
    """CamelCase word for programs, such as `InvalidRow`, `PromptError`, `ContextLengthExceeded`."""
    message: str
    """One sentence for people: for input errors with file and line or byte."""


class StageOutput(NamedTuple):
    """What one stage made of one row."""

    value: Any
    """str for generate; list[float] for embed and classify; float for score."""
    prompt_tokens: int = 0
    """Tokens the model read."""
    completion_tokens: int = 0
    """Tokens the model generated."""
    finish_reason: str = ""
    """`stop` or `length` for generate, else empty."""


_NOTHING = (None,) * len(StageOutput._fields)


@dataclass(slots=True)
class Row:
    """One row by itself, for what has to look at rows one by one."""

    shard: str
    start: int
    position: int
    id: str
    fields: dict[str, Any]
    outputs: dict[str, StageOutput] = field(default_factory=dict)
    error: RowError | None = None
    seconds: float = 0.0


def output_column(stage: str, part: OutputPart) -> str:
    """Return the name of a column with what a stage made; no value: it made nothing of that row."""
    return f"{stage}.{part}"


def with_results(
    table: pa.Table, stage: Stage, answers: Sequence[StageOutput | RowError | None], seconds: float
) -> pa.Table:
    """Return a batch with what a stage made of it.

    Args:
        table: The batch as it came to the stage.
        stage: The stage.
        answers: For each row its output or its error, None where the row had an error before.
        seconds: Replica-seconds that each row took.
    """
    columns = dict(zip(table.column_names, table.columns, strict=True))
    if any(isinstance(answer, RowError) for answer in answers):
        before = columns["error"].to_pylist()
        errors = [
            dumps(answer) if isinstance(answer, RowError) else error
            for answer, error in zip(answers, before, strict=True)
        ]
        columns["error"] = pa.array(errors, pa.string())
    columns["seconds"] = pc.add(columns["seconds"], seconds)
    types: dict[OutputPart, pa.DataType] = {
        "value": VALUE_TYPES[stage.task],
        "prompt_tokens": pa.int64(),
        "completion_tokens": pa.int64(),
        "finish_reason": pa.string(),
    }
    outputs = [answer if isinstance(answer, StageOutput) else _NOTHING for answer in answers]
    parts = zip(*outputs, strict=True) if outputs else repeat((), len(types))
    for (part, kind), values in zip(types.items(), parts, strict=True):
        columns[output_column(stage.name, part)] = pa.array(values, kind)
    return pa.table(columns)


def outputs_in(table: pa.Table, stage: str, part: OutputPart) -> pa.ChunkedArray | None:
    """Return a column with what a stage made, None where the rows have not passed it."""
    name = output_column(stage, part)
    return table.column(name) if name in table.column_names else None


def tokens_in(table: pa.Table, stages: Sequence[str], part: TokenPart) -> Any:
    """Return the tokens that some stages read or generated for each row, together, as an Arrow column."""
    columns = [column for stage in stages if (column := outputs_in(table, stage, part)) is not None]
    none = pa.chunked_array([pa.repeat(pa.scalar(0, pa.int64()), len(table))])
    return reduce(pc.add, (pc.fill_null(column, 0) for column in columns), none)


def errors_in(table: pa.Table) -> list[RowError | None]:
    """Return the rows' errors, in order."""
    return [RowError(**orjson.loads(error)) if error else None for error in table.column("error").to_pylist()]


def names_in(table: pa.Table, needed: Collection[str]) -> Iterable[dict[str, Any]]:
    """Return what a template sees of each row, at least the names it needs: fields, and values that stages made."""
    made = [name for name in needed if outputs_in(table, name, "value") is not None]
    columns = [table.column(output_column(name, "value")).to_pylist() for name in made]
    outputs = (dict(zip(made, values, strict=True)) for values in zip(*columns, strict=True))
    if len(made) == len(needed) > 0:
        return outputs
    fields = map(orjson.loads, table.column("fields").to_pylist())
    return map(or_, fields, outputs) if made else fields


def from_table(table: pa.Table) -> list[Row]:
    """Take a table apart."""
    stages = [name.removesuffix(".value") for name in table.column_names if name.endswith(".value")]
    outputs = [_outputs(table, stage) for stage in stages]
    names = ("shard", "start", "position", "id", "fields", "seconds")
    columns = [table.column(name).to_pylist() for name in names]
    rows = []
    for error, made, (shard, start, position, row_id, fields, seconds) in zip(
        errors_in(table),
        zip(*outputs, strict=True) if outputs else repeat((), len(table)),
        zip(*columns, strict=True),
        strict=True,
    ):
        present = {name: output for name, output in zip(stages, made, strict=True) if output.value is not None}
        rows.append(Row(shard, start, position, row_id, orjson.loads(fields), present, error, seconds))
    return rows


def _outputs(table: pa.Table, stage: str) -> list[StageOutput]:
    parts: tuple[OutputPart, ...] = ("value", "prompt_tokens", "completion_tokens", "finish_reason")
    columns = [table.column(output_column(stage, part)).to_pylist() for part in parts]
    return [StageOutput(*values) for values in zip(*columns, strict=True)]


def dumps(value: Any) -> str:
    """JSON text of a row's part. Values JSON has no form for (dates, decimals, bytes) become strings."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(value, default=_as_text, option=options).decode()


def _as_text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
