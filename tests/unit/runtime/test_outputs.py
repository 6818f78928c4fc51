"""Part files: formats, whole shards, deterministic bytes, and the commit that makes them count."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from ledgerkit import (
    LATER,
    SPEC_HASH,
    FaultyStore,
    job_spec,
    manifest_of,
    open_ledger,
    rows_of,
    shard_keys,
    table_of,
    to_table,
)
from llmbatch.errors import (
    DuplicateIdError,
    InternalError,
    OutputError,
    ShardSplitError,
    SpecError,
    StorageBusyError,
)
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.idindex import decode_hashes, hash_id
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import encode, output_schema, whole_shard, write_shard
from llmbatch.runtime.parts import ids_in, read_part
from llmbatch.runtime.records import Commit
from llmbatch.runtime.rows import SCHEMA, Row, StageOutput, from_table
from llmbatch.runtime.uniqueids import UniqueIds

[KEY] = shard_keys(files=1, shards=1, rows=3)


def lines(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def ids_of(ledger: Ledger, record: Commit) -> list[str]:
    return ids_in(read_part(ledger.folder, record.data, record.sha256), ledger.output.format)


def test_parquet_has_one_column_a_stage_and_null_errors(tmp_path):
    spec = job_spec(str(tmp_path))
    result = write_shard(open_ledger(spec), spec, KEY, table_of(KEY, failing=[1]), attempt="a1")
    table = pq.read_table(tmp_path / result.record.data)
    assert table.schema.remove_metadata() == pa.schema(
        [
            ("id", pa.string()),
            ("input", pa.string()),
            ("say", pa.string()),
            ("say_finish_reason", pa.string()),
            ("vec", pa.list_(pa.float32())),
            ("prompt_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
            ("error", pa.string()),
            ("error_stage", pa.string()),
        ]
    )
    well, failed, _ = table.to_pylist()
    assert well == {
        "id": "0.csv:0",
        "input": '{"text":"file 0 row 0"}',
        "say": "said 0",
        "say_finish_reason": "stop",
        "vec": [0.5, 0.0],
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "error": None,
        "error_stage": None,
    }
    assert failed["error"] == "ContextLengthExceeded: 9000 tokens, at most 8192 fit"
    assert failed["error_stage"] == "say"
    assert (failed["say"], failed["vec"], failed["prompt_tokens"]) == (None, None, 0)


def test_score_and_classify_have_numbers_for_columns():
    prompt = {"user": "{{ text }}", "query": "q"}
    stages = [
        {"name": "rel", "engine": "simulated", "task": "score", "prompt": prompt},
        {"name": "cls", "engine": "simulated", "task": "classify", "prompt": {"user": "{{ text }}"}},
    ]
    spec = job_spec("out", stages=stages)
    schema = output_schema(spec)
    assert (schema.field("rel").type, schema.field("cls").type) == (pa.float64(), pa.list_(pa.float32()))
    [row] = rows_of(replace(KEY, end=1, rows=1))
    row.outputs = {"rel": StageOutput(0.25), "cls": StageOutput([0.75, 0.25])}
    [record] = pq.read_table(pa.BufferReader(encode(spec, SPEC_HASH, to_table([row])))).to_pylist()
    assert (record["rel"], record["cls"]) == (0.25, [0.75, 0.25])


def test_the_input_is_left_out_unless_asked_for(tmp_path):
    spec = job_spec(str(tmp_path), output={"keepInput": False})
    assert "input" not in output_schema(spec).names
    assert "input" not in lines(encode(job_spec("x", "jsonl", output={"keepInput": False}), "h", table_of(KEY)))[0]


def test_jsonl_has_the_same_keys_as_parquet(tmp_path):
    spec = job_spec(str(tmp_path), "jsonl")
    result = write_shard(open_ledger(spec), spec, KEY, table_of(KEY, failing=[2]))
    records = lines((tmp_path / result.record.data).read_bytes())
    assert [list(record) for record in records] == [output_schema(spec).names] * 3
    assert records[0]["input"] == {"text": "file 0 row 0"}
    assert records[0]["vec"] == [0.5, 0.0]
    assert records[2]["error_stage"] == "say"
    assert result.record.errors is None


def test_openai_results_have_the_batch_shape_and_errors_a_file_of_their_own(tmp_path):
    spec = job_spec(str(tmp_path), "openai", stages=job_spec("x").to_wire()["stages"][:1])
    ids = ["first", "second", "third"]
    result = write_shard(open_ledger(spec), spec, KEY, table_of(KEY, failing=[1], ids=ids.__getitem__))
    records = lines((tmp_path / result.record.data).read_bytes())
    assert [record["custom_id"] for record in records] == ids
    body = records[0]["response"]["body"]
    assert records[0]["response"]["status_code"] == 200
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "said 0"}, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3}
    assert records[1]["response"] is None
    assert records[1]["error"] == {
        "code": "ContextLengthExceeded",
        "message": "say: 9000 tokens, at most 8192 fit",
    }
    assert result.record.errors is not None
    assert lines((tmp_path / result.record.errors).read_bytes()) == [records[1]]
    assert len({record["id"] for record in records}) == 3


def test_openai_results_parse_with_the_openai_client(tmp_path):
    types = pytest.importorskip("openai.types")
    chat = pytest.importorskip("openai.types.chat")
    rows = table_of(KEY, ids=str)
    generate = job_spec("x", "openai", stages=job_spec("x").to_wire()["stages"][:1])
    for record in lines(encode(generate, SPEC_HASH, rows)):
        chat.ChatCompletion.model_validate(record["response"]["body"], strict=True)
    embed = job_spec("x", "openai")
    for record in lines(encode(embed, SPEC_HASH, rows)):
        types.CreateEmbeddingResponse.model_validate(record["response"]["body"], strict=True)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_the_same_rows_give_the_same_bytes_whatever_way_they_came(tmp_path, output_format):
    spec = job_spec(str(tmp_path), output_format)
    ledger = open_ledger(spec)
    rows = rows_of(KEY, failing=[0], ids=str)
    first = write_shard(ledger, spec, KEY, to_table(rows), worker="w1")
    pieces = [to_table([row]) for row in rows[::-1]]
    second = write_shard(ledger, spec, KEY, pa.concat_tables(pieces, promote_options="default"), worker="w2")
    parts = sorted((tmp_path / ledger.data_prefix).iterdir())
    assert len(parts) == 2
    assert parts[0].read_bytes() == parts[1].read_bytes()
    assert first.won
    assert not second.won
    assert second.record == first.record


def test_the_record_counts_what_is_in_the_part(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    record = write_shard(ledger, spec, KEY, table_of(KEY, failing=[1]), worker="node1").record
    part = (tmp_path / record.data).read_bytes()
    assert record.size == len(part)
    assert read_part(ledger.folder, record.data, record.sha256) == part
    assert (record.rows, record.failed, record.prompt_tokens, record.completion_tokens) == (3, 1, 20, 6)
    assert (record.worker, record.seconds, record.shard) == ("node1", 1.5, str(KEY))
    assert record.id_hashes == ""
    assert ids_of(ledger, record) == ["0.csv:0", "0.csv:1", "0.csv:2"]


def test_rows_with_ids_of_their_own_are_hashed_in_order(tmp_path):
    spec = job_spec(str(tmp_path), input={"idField": "k"})
    record = write_shard(open_ledger(spec), spec, KEY, table_of(KEY, ids="xyz".__getitem__)).record
    assert decode_hashes(record.id_hashes).tolist() == [hash_id(letter) for letter in "xyz"]


@given(st.data())
def test_anything_but_the_whole_shard_once_is_refused(data):
    key = replace(KEY, end=4, rows=4)
    rows = rows_of(key)
    picked = data.draw(st.lists(st.sampled_from(range(4)), max_size=6))
    chosen = to_table([rows[index] for index in picked])
    if sorted(picked) == [0, 1, 2, 3]:
        assert from_table(whole_shard(key, chosen)) == rows
    else:
        with pytest.raises(ShardSplitError, match=str(key)):
            whole_shard(key, chosen)


def test_rows_of_another_shard_are_refused_and_nothing_is_written(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    rows = rows_of(KEY)
    rows[1].shard = str(replace(KEY, seq=1))
    with pytest.raises(ShardSplitError):
        write_shard(ledger, spec, KEY, to_table(rows))
    assert not (tmp_path / "data").exists()


def test_a_shard_without_rows_is_a_part_without_rows(tmp_path):
    for output_format in ("parquet", "jsonl", "openai"):
        spec = job_spec(str(tmp_path / output_format), output_format)
        ledger = open_ledger(spec)
        record = write_shard(ledger, spec, replace(KEY, end=0, rows=0), SCHEMA.empty_table()).record
        assert record.rows == 0
        assert ids_of(ledger, record) == []


def test_a_part_that_arrived_short_is_not_committed():
    inner = MemoryStore()

    class Short(FaultyStore):
        def put(self, key, data, **options):
            return super().put(key, data[:-1] if key.startswith("data/") else data, **options)

    spec = job_spec("x")
    ledger = open_ledger(spec, Short(inner, lambda number, name, key: None))
    with pytest.raises(StorageBusyError, match="write it again"):
        write_shard(ledger, spec, KEY, table_of(KEY))
    assert list(ledger.committed()) == []


def test_a_failed_part_write_commits_nothing_and_names_the_field(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    (tmp_path / "data").touch()
    with pytest.raises(OutputError, match=r"^output.uri: .*Not a directory"):
        write_shard(ledger, spec, KEY, table_of(KEY))
    assert list(ledger.committed()) == []


def test_a_part_that_was_changed_or_deleted_is_reported(tmp_path):
    spec = job_spec(str(tmp_path))
    ledger = open_ledger(spec)
    record = write_shard(ledger, spec, KEY, table_of(KEY)).record
    (tmp_path / record.data).write_bytes(b"other")
    with pytest.raises(InternalError, match="not the file that was committed"):
        ids_of(ledger, record)
    (tmp_path / record.data).unlink()
    with pytest.raises(InternalError, match="gone from"):
        ids_of(ledger, record)


def test_two_columns_of_one_name_are_refused():
    stages = job_spec("x").to_wire()["stages"]
    stages[1]["name"] = "say_finish_reason"
    with pytest.raises(SpecError, match=r"stages\[\].name: 'say_finish_reason'"):
        output_schema(job_spec("x", stages=stages))


def test_values_json_has_no_form_for_stay_readable():
    spec = job_spec("x", "jsonl")
    row = Row(str(KEY), -1, 0, "é\u2028\n", {"x": math.nan}, {"say": StageOutput('a\n"b"', 1, 1, "length")})
    [record] = lines(encode(spec, SPEC_HASH, to_table([row])))
    assert record["id"] == row.id
    assert record["say"] == 'a\n"b"'
    assert record["input"] == {"x": None}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_a_repeated_id_is_refused_naming_both_places(tmp_path, output_format):
    spec = job_spec(str(tmp_path), output_format, input={"format": "openai"})
    ledger = open_ledger(spec)
    keys = shard_keys(files=2, shards=1, rows=3)
    unique = UniqueIds(ledger, manifest_of(keys), spec.input)
    first = write_shard(ledger, spec, keys[0], table_of(keys[0], ids="abc".__getitem__)).record
    second = write_shard(ledger, spec, keys[1], table_of(keys[1], ids="dcf".__getitem__)).record
    unique.add(first)
    unique.finish()
    unique.add(first)
    unique.add(second)
    with pytest.raises(DuplicateIdError) as caught:
        unique.finish()
    message = str(caught.value)
    assert message.startswith("input.custom_id: 'c': ")
    assert "in/0.csv (split 0, shard 0, its row 2)" in message
    assert "in/1.csv (split 0, shard 0, its row 1)" in message


def test_an_id_twice_in_one_shard_is_refused(tmp_path):
    spec = job_spec(str(tmp_path), input={"idField": "k"})
    ledger = open_ledger(spec)
    record = write_shard(ledger, spec, KEY, table_of(KEY, ids="aba".__getitem__)).record
    unique = UniqueIds(ledger, manifest_of([KEY]), spec.input)
    unique.add(record)
    with pytest.raises(DuplicateIdError, match=r"^input.k: 'a': .*its row 0\) and .*its row 2\)"):
        unique.finish()


def test_two_ids_with_one_hash_are_no_repetition(tmp_path, monkeypatch):
    monkeypatch.setattr("llmbatch.runtime.idindex.hash_id", lambda row_id: 7)
    monkeypatch.setattr("llmbatch.runtime.uniqueids.hash_id", lambda row_id: 7)
    spec = job_spec(str(tmp_path), input={"idField": "k"})
    ledger = open_ledger(spec)
    unique = UniqueIds(ledger, manifest_of([KEY]), spec.input)
    unique.add(write_shard(ledger, spec, KEY, table_of(KEY, ids="abc".__getitem__)).record)
    unique.finish()


def test_repeated_ids_nobody_looked_at_stop_the_final(tmp_path):
    spec = job_spec(str(tmp_path), input={"idField": "k"})
    ledger = open_ledger(spec)
    keys = shard_keys(files=2, shards=1, rows=3)
    for key in keys:
        write_shard(ledger, spec, key, table_of(key, ids="abc".__getitem__))
    with pytest.raises(DuplicateIdError):
        finalize(ledger, manifest_of(keys), spec, LATER)
    assert ledger.read_final() is None


def test_trusted_ids_are_not_compared(tmp_path):
    spec = job_spec(str(tmp_path), input={"idField": "k", "uniqueIds": "trust"})
    ledger = open_ledger(spec)
    keys = shard_keys(files=2, shards=1, rows=3)
    for key in keys:
        write_shard(ledger, spec, key, table_of(key, ids="abc".__getitem__))
    assert finalize(ledger, manifest_of(keys), spec, LATER).rows == 6
