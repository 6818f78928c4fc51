"""Part files: a shard's rows in the job's output format, written under an attempt name and committed.

The same rows and spec give the same bytes: nothing in a part file depends on time, worker or attempt.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmbatch.api.job import LLMBatchJobSpec, OutputFormat, Stage, TaskName
from llmbatch.errors import ShardSplitError, SpecError, StorageBusyError
from llmbatch.runtime.idindex import encode_hashes
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.parts import read_part, with_replaced
from llmbatch.runtime.records import Commit
from llmbatch.runtime.retries import is_kept, replaced_commit
from llmbatch.runtime.rows import TOKEN_PARTS, Row, StageOutput, dumps, errors_in, from_table, outputs_in, tokens_in
from llmbatch.runtime.shards import ShardKey, own_id_field

EXTENSIONS: dict[OutputFormat, str] = {"parquet": "parquet", "jsonl": "jsonl", "openai": "jsonl"}
COLUMN_TYPES: dict[TaskName, pa.DataType] = {
    "generate": pa.string(),
    "embed": pa.list_(pa.float32()),
    "classify": pa.list_(pa.float32()),
    "score": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What came of a shard."""

    record: Commit
    """The commit that counts: this attempt's, or the one that was there before."""
    won: bool
    """Whether it is this attempt's."""


def write_shard(
    ledger: Ledger,
    spec: LLMBatchJobSpec,
    shard: ShardKey,
    table: pa.Table,
    *,
    worker: str = "",
    attempt: str | None = None,
) -> CommitResult:
    """Write all rows of one shard and commit it.

    Args:
        ledger: The job's ledger.
        spec: The job's spec.
        shard: Which shard.
        table: All its rows, in any order: `rows.SCHEMA`, and the columns of the stages they passed. In a retry, those
            that an earlier commit has are marked (`retries`).
        worker: Who asks, for people.
        attempt: Unique id of this attempt; a random one when left out.

    Raises:
        ShardSplitError: `table` is not the whole shard, once.
        OutputError: the output cannot be written; the user must act.
        StorageBusyError: it is unknown whether this attempt counts. Calling again is safe.
    """
    table = whole_shard(shard, table)
    attempt = attempt or uuid.uuid4().hex
    name = f"{shard}-{attempt}.{EXTENSIONS[spec.output.format]}"
    errors = errors_in(table)
    kept = [is_kept(error) for error in errors]
    fresh = table.filter(pc.invert(pa.array(kept, pa.bool_()))) if any(kept) else table
    data = encode(spec, ledger.spec_hash, fresh)
    before = replaced_commit(ledger, shard, errors)
    if before is not None and len(fresh) < len(table):
        part = read_part(ledger.folder, before.data, before.sha256)
        data = with_replaced(part, data, fresh.column("position").to_pylist(), spec.output.format)
    data_key = ledger.data_prefix + name
    _put_and_verify(ledger, data_key, data)
    failed = fresh.filter(pc.not_equal(fresh.column("error"), ""))
    stages = [stage.name for stage in spec.stages]
    read, generated = (tokens_in(fresh, stages, part) for part in TOKEN_PARTS)
    errors_key = None
    if len(failed) and spec.output.format == "openai":
        errors_key = ledger.errors_prefix + name
        _put_and_verify(ledger, errors_key, encode(spec, ledger.spec_hash, failed))
    record = Commit(
        shard=str(shard),
        attempt=attempt,
        data=data_key,
        errors=errors_key,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=len(table),
        failed=len(failed),
        prompt_tokens=_sum(read) + (before.prompt_tokens if before else 0),
        completion_tokens=_sum(generated) + (before.completion_tokens if before else 0),
        seconds=_sum(table.column("seconds")),
        id_hashes=encode_hashes(table.column("id").to_pylist()) if has_own_ids(spec) else "",
        worker=worker,
    )
    stands = ledger.settle(record)
    return CommitResult(stands, won=stands.attempt == attempt)


def _put_and_verify(ledger: Ledger, key: str, data: bytes) -> None:
    ledger.folder.put(key, data)
    stored = ledger.folder.size(key)
    if stored != len(data):
        raise StorageBusyError(f"{key} has {stored} bytes in the store, {len(data)} were written: write it again")


def whole_shard(shard: ShardKey, table: pa.Table) -> pa.Table:
    """Return the shard's rows in order.

    Raises:
        ShardSplitError: a row is missing, double or another shard's.
    """
    strangers = set(pc.unique(table.column("shard")).to_pylist()) - {str(shard)}
    if strangers:
        raise ShardSplitError(f"rows of shard {min(strangers)} came with shard {shard}")
    positions = table.column("position").to_numpy()
    ordered = np.arange(shard.rows)
    if np.array_equal(positions, ordered):
        return table
    order = np.argsort(positions)
    if not np.array_equal(positions[order], ordered):
        raise ShardSplitError(
            f"shard {shard} came with {len(table)} rows, not with rows 0 to {shard.rows - 1} once each"
        )
    return table.take(order)


def has_own_ids(spec: LLMBatchJobSpec) -> bool:
    """Tell whether the rows bring their ids, which may then repeat; generated ones cannot."""
    return own_id_field(spec.input) is not None


def _sum(column: Any) -> Any:
    return pc.sum(column, min_count=0).as_py()


def encode(spec: LLMBatchJobSpec, spec_hash: str, table: pa.Table) -> bytes:
    """Return the bytes of a part file with the rows of `table`."""
    if spec.output.format == "parquet":
        return _encode_parquet(spec, table)
    if spec.output.format == "jsonl":
        return _lines(_record(spec, row) for row in from_table(table))
    return _lines(_batch_result(spec, spec_hash, row) for row in from_table(table))


def output_schema(spec: LLMBatchJobSpec) -> pa.Schema:
    """Return the columns of a Parquet output.

    Raises:
        SpecError: two columns have the same name.
    """
    fields = [("id", pa.string())]
    if spec.output.keep_input:
        fields.append(("input", pa.string()))
    for stage in spec.stages:
        fields.append((stage.name, COLUMN_TYPES[stage.task]))
        if stage.task == "generate":
            fields.append((f"{stage.name}_finish_reason", pa.string()))
    fields += [("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())]
    fields += [("error", pa.string()), ("error_stage", pa.string())]
    names = [name for name, _ in fields]
    for stage in spec.stages:
        if names.count(stage.name) > 1:
            raise SpecError.of("stages[].name", stage.name, "another output column has this name")
    return pa.schema(fields)


def _encode_parquet(spec: LLMBatchJobSpec, table: pa.Table) -> bytes:
    schema = output_schema(spec)
    columns: dict[str, Any] = {"id": table.column("id")}
    if spec.output.keep_input:
        columns["input"] = table.column("fields")
    for stage in spec.stages:
        columns[stage.name] = outputs_in(table, stage.name, "value")
        if stage.task == "generate":
            columns[f"{stage.name}_finish_reason"] = outputs_in(table, stage.name, "finish_reason")
    stages = [stage.name for stage in spec.stages]
    columns |= {part: tokens_in(table, stages, part) for part in TOKEN_PARTS}
    errors = errors_in(table)
    columns["error"] = pa.array([error and f"{error.code}: {error.message}" for error in errors], pa.string())
    columns["error_stage"] = pa.array([error and error.stage for error in errors], pa.string())
    arrays = [
        pa.nulls(len(table), kind.type) if columns[kind.name] is None else columns[kind.name].cast(kind.type)
        for kind in schema
    ]
    buffer = io.BytesIO()
    # In one piece: the bytes of a part must not depend on the batches that its rows came in.
    part = pa.Table.from_arrays(arrays, schema=schema).combine_chunks()
    pq.write_table(part, buffer, compression="zstd")
    return buffer.getvalue()


def _record(spec: LLMBatchJobSpec, row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"id": row.id}
    if spec.output.keep_input:
        record["input"] = row.fields
    for stage in spec.stages:
        output = row.outputs.get(stage.name)
        record[stage.name] = None if output is None else output.value
        if stage.task == "generate":
            record[f"{stage.name}_finish_reason"] = None if output is None else output.finish_reason
    record["prompt_tokens"] = sum(output.prompt_tokens for output in row.outputs.values())
    record["completion_tokens"] = sum(output.completion_tokens for output in row.outputs.values())
    record["error"] = None if row.error is None else f"{row.error.code}: {row.error.message}"
    record["error_stage"] = None if row.error is None else row.error.stage
    return record


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{dumps(record)}\n" for record in records).encode()


def _batch_result(spec: LLMBatchJobSpec, spec_hash: str, row: Row) -> dict[str, Any]:
    # The shape of OpenAI's batch output file, of the last stage. Ids are a function of spec and custom_id.
    token = hashlib.blake2b(f"{spec_hash}\0{row.id}".encode(), digest_size=12).hexdigest()
    result: dict[str, Any] = {
        "id": f"batch_req_{token}",
        "custom_id": row.id,
        "response": None,
        "error": None,
    }
    if row.error is not None:
        result["error"] = {"code": row.error.code, "message": f"{row.error.stage}: {row.error.message}"}
    else:
        stage = spec.stages[-1]
        body = _body(stage, row.outputs[stage.name], token)
        result["response"] = {"status_code": 200, "request_id": token, "body": body}
    if spec.output.keep_input:
        result["input"] = row.fields
    return result


def _body(stage: Stage, output: StageOutput, token: str) -> dict[str, Any]:
    total = output.prompt_tokens + output.completion_tokens
    usage = {"prompt_tokens": output.prompt_tokens, "total_tokens": total}
    model = "simulated" if stage.model is None else stage.model.name
    if stage.task == "generate":
        message = {"role": "assistant", "content": output.value}
        choice = {"index": 0, "message": message, "finish_reason": output.finish_reason}
        return {
            "id": f"chatcmpl-{token}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice],
            "usage": usage | {"completion_tokens": output.completion_tokens},
        }
    # embed is OpenAI's; classify and score are vLLM's /classify and /score, which extend it.
    item: dict[str, Any] = {
        "embed": {"object": "embedding", "embedding": output.value},
        "classify": {"object": "classification", "probs": output.value},
        "score": {"object": "score", "score": output.value},
    }[stage.task]
    return {"object": "list", "data": [{"index": 0, **item}], "model": model, "usage": usage}
