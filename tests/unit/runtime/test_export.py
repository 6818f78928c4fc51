"""Export: one file, all winning rows, in input order, or nothing."""

from __future__ import annotations

import gzip
import json

import pyarrow.parquet as pq
import pytest
import zstandard
from pyarrow import dataset

from ledgerkit import (
    LATER,
    job_spec,
    manifest_of,
    open_ledger,
    rows_of,
    shard_keys,
    table_of,
)
from llmbatch.errors import InternalError, OutputError
from llmbatch.runtime import export as export_module
from llmbatch.runtime.export import export
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.outputs import write_shard

KEYS = shard_keys(files=3, shards=30, rows=4)
IDS = [row.id for key in KEYS for row in rows_of(key)]


@pytest.fixture(params=["parquet", "jsonl", "openai"])
def finished(request, tmp_path):
    return finish(str(tmp_path / "out"), request.param)


def finish(uri, output_format):
    spec = job_spec(uri, output_format)
    ledger = open_ledger(spec)
    # Committed backwards, with a losing attempt each: only the ledger knows the order and the winners.
    for key in reversed(KEYS):
        write_shard(ledger, spec, key, table_of(key))
        write_shard(ledger, spec, key, table_of(key))
    finalize(ledger, manifest_of(KEYS), spec, LATER)
    return ledger


def read_ids(path, output_format):
    if output_format == "parquet":
        return pq.read_table(path).column("id").to_pylist()
    records = map(json.loads, path.read_bytes().splitlines())
    return [record["custom_id" if output_format == "openai" else "id"] for record in records]


def test_ordered_export_has_every_row_in_input_order(finished, tmp_path):
    target = tmp_path / "deep" / "all.out"
    result = export(finished, str(target))
    assert read_ids(target, finished.output.format) == IDS
    assert result.rows == len(IDS)
    assert result.size == target.stat().st_size


def test_unordered_export_has_every_row_once(finished, tmp_path):
    target = tmp_path / "all.out"
    export(finished, str(target), ordered=False)
    assert sorted(read_ids(target, finished.output.format)) == sorted(IDS)


def test_lines_are_compressed_by_suffix(tmp_path):
    ledger = finish(str(tmp_path / "out"), "jsonl")
    plain, gz, zst = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl.zst"
    for target in (plain, gz, zst):
        export(ledger, str(target))
    assert gzip.decompress(gz.read_bytes()) == plain.read_bytes()
    with zst.open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file).read() == plain.read_bytes()


def test_a_file_of_lines_has_the_lines_of_a_parquet_output_too(tmp_path):
    exported = []
    for output_format in ("parquet", "jsonl"):
        ledger = finish(str(tmp_path / output_format), output_format)
        export(ledger, str(tmp_path / f"{output_format}.jsonl.gz"))
        exported.append(gzip.decompress((tmp_path / f"{output_format}.jsonl.gz").read_bytes()))
    assert exported[0] == exported[1]


@pytest.mark.parametrize(
    ("output_format", "name", "allowed"),
    [
        ("parquet", "all.csv", "no CSV is written: name a .jsonl file"),
        ("jsonl", "all.csv.gz", "no CSV is written: name a .jsonl file"),
        ("parquet", "all.parquet.gz", "Parquet compresses inside"),
        ("parquet", "all.zst", "Parquet compresses inside"),
        ("jsonl", "all.parquet.zst", "name a .jsonl file"),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path, output_format, name, allowed):
    ledger = finish(str(tmp_path / "out"), output_format)
    with pytest.raises(OutputError, match=allowed):
        export(ledger, str(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_lines_are_not_called_parquet(tmp_path):
    ledger = finish(str(tmp_path / "out"), "jsonl")
    with pytest.raises(OutputError, match=r"all\.parquet.*name a \.jsonl file"):
        export(ledger, str(tmp_path / "all.parquet"))
    assert not (tmp_path / "all.parquet").exists()


def test_row_groups_are_gathered_from_many_parts(tmp_path, monkeypatch):
    ledger = finish(str(tmp_path / "out"), "parquet")
    monkeypatch.setattr(export_module, "ROW_GROUP_ROWS", 50)
    export(ledger, str(tmp_path / "all.parquet"))
    metadata = pq.read_metadata(tmp_path / "all.parquet")
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [52] * 6 + [48]


def test_the_winners_file_is_enough_to_read_the_output(tmp_path):
    """As docs/storage.md shows, without llmbatch."""
    ledger = finish(str(tmp_path / "out"), "parquet")
    final = json.loads((tmp_path / "out" / "_FINAL").read_bytes())
    parts = pq.read_table(tmp_path / "out" / final["winners"]["key"]).column("data").to_pylist()
    rows = dataset.dataset([str(tmp_path / "out" / part) for part in parts]).to_table()
    assert rows.column("id").to_pylist() == IDS
    assert final["rows"] == len(IDS)
    assert final["specHash"] == ledger.spec_hash


def test_an_unfinished_job_cannot_be_exported(tmp_path):
    ledger = open_ledger(job_spec(str(tmp_path / "out")))
    with pytest.raises(OutputError, match="not complete"):
        export(ledger, str(tmp_path / "all.parquet"))
    assert not (tmp_path / "all.parquet").exists()


def test_a_changed_part_stops_the_export_and_leaves_no_file(tmp_path):
    ledger = finish(str(tmp_path / "out"), "jsonl")
    victim = list(ledger.winners())[-1]
    (tmp_path / "out" / victim.data).write_bytes(b"{}\n")
    target = tmp_path / "target" / "all.jsonl"
    target.parent.mkdir()
    target.write_text("the old one")
    with pytest.raises(InternalError, match="not the file that was committed"):
        export(ledger, str(target))
    assert target.read_text() == "the old one"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("target", ["", "folder/"])
def test_a_destination_without_a_file_name_is_refused(tmp_path, target):
    ledger = open_ledger(job_spec(str(tmp_path / "out")))
    with pytest.raises(OutputError, match=r"^destination: .*must name a file"):
        export(ledger, target)


def test_a_destination_that_cannot_be_written_is_named(tmp_path):
    ledger = finish(str(tmp_path / "out"), "jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"^destination: .*/file': File exists; the path must be a folder"):
        export(ledger, str(tmp_path / "file" / "all.jsonl"))
