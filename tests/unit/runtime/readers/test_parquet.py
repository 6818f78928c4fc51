"""Parquet: types, splits by row group, and damaged files."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmbatch.errors import DuplicateIdError, InputError
from llmbatch.runtime.readers.listing import list_files, sample_fields
from llmbatch.runtime.shards import PARQUET_SPLITS
from readerkit import read, rows, rows_of, source, write_parquet

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
TYPES = [
    (pa.array([1], pa.int8()), 1),
    (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    (pa.array([1.5], pa.float32()), 1.5),
    (pa.array([float("nan")]), None),
    (pa.array([True]), True),
    (pa.array([None], pa.string()), None),
    (pa.array(["ä"], pa.large_string()), "ä"),
    (pa.array(["a"]).dictionary_encode(), "a"),
    (pa.array([b"\x00\xff"]), "00ff"),
    (pa.array([Decimal("12.340")], pa.decimal128(9, 3)), "12.340"),
    (pa.array([NOW.date()]), "2026-01-02"),
    (pa.array([NOW], pa.timestamp("us", "UTC")), "2026-01-02T03:04:05.678901+00:00"),
    (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), "2023-11-14T22:13:20.123456"),
    (pa.array([[1_700_000_000_123_456_789]], pa.list_(pa.timestamp("ns"))), ["2023-11-14T22:13:20.123456"]),
    (pa.array([dt.time(1, 2, 3)], pa.time64("ns")), "01:02:03"),
    (pa.array([dt.timedelta(seconds=90)], pa.duration("ns")), "0:01:30"),
    (pa.array([[1, None]]), [1, None]),
    (pa.array([{"a": {"b": [1]}, "c": None}]), {"a": {"b": [1]}, "c": None}),
    (pa.array([[("k", 1), ("l", 2)]], pa.map_(pa.string(), pa.int64())), {"k": 1, "l": 2}),
    (pa.array([uuid.UUID(int=5).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000005"),
]


@pytest.mark.parametrize(("array", "value"), TYPES, ids=[str(array.type) for array, _ in TYPES])
def test_types_have_a_form_in_json(tmp_path: Path, array: pa.Array, value: object) -> None:
    pq.write_table(pa.table({"x": array}), tmp_path / "a.parquet")
    [row] = rows(source(tmp_path / "a.parquet", "parquet"))
    assert row.error is None
    assert row.fields == {"x": value}


def records(count: int) -> list[dict[str, object]]:
    return [{"id": n, "text": f"text {n}", "unused": "x" * 50} for n in range(count)]


@pytest.mark.parametrize("row_group", [1, 7, 100, 1000])
@pytest.mark.parametrize("shard_rows", [1, 10, 33, 500])
def test_shards_are_cut_across_row_groups(tmp_path: Path, row_group: int, shard_rows: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records(200), row_group)
    shards = read(source(path, "parquet", id_field="id"), shard_rows, keep=frozenset({"text"}))
    found = rows_of(shards)
    assert [row.id for row in found] == [str(n) for n in range(200)]
    assert [row.fields for row in found] == [{"text": f"text {n}"} for n in range(200)]
    assert all(key.rows == shard_rows for key in sorted(shards)[:-1])


def test_a_large_file_is_split_by_its_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records(300), row_group=20)
    size = path.stat().st_size
    shards = read(source(path, "parquet"), 7, split_bytes=size // 5 // PARQUET_SPLITS)
    assert len({key.split for key in shards}) >= 5
    assert [row.id for row in rows_of(shards)] == [f"a.parquet:{n}" for n in range(300)]


def test_a_split_in_which_no_row_group_begins_is_one_empty_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records(50), row_group=50)
    shards = read(source(path, "parquet"), 7, split_bytes=path.stat().st_size // 3 // PARQUET_SPLITS)
    assert {key.rows for key in shards if key.split > 0} == {0}
    assert sum(key.rows for key in shards) == 50


def test_a_file_without_rows_is_one_empty_shard(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    assert [key.rows for key in read(source(tmp_path / "a.parquet", "parquet", id_field="id"))] == [0]


@pytest.mark.parametrize("keep", [1, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records(100))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"^input\.uri: '.*': .*it must be a whole and undamaged Parquet file"):
        rows(source(path, "parquet"))


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records(2000))
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(InputError, match="it must be a whole and undamaged Parquet file"):
        rows(source(path, "parquet"))


def test_an_id_field_that_is_no_column_is_told_with_the_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", records(1))
    with pytest.raises(InputError, match=r"^input\.idField: 'key': it must be a column of .*id, text, unused"):
        rows(source(tmp_path / "a.parquet", "parquet", id_field="key"))


@pytest.mark.parametrize("shard_rows", [2, 100])
@pytest.mark.parametrize("row_group", [3, 1000])
def test_a_file_without_any_wanted_column_has_its_rows_all_the_same(
    tmp_path: Path, shard_rows: int, row_group: int
) -> None:
    write_parquet(tmp_path / "a.parquet", [{"body": f"text {n}"} for n in range(7)], row_group)
    shards = read(source(tmp_path / "a.parquet", "parquet"), shard_rows, keep=frozenset({"text"}))
    found = rows_of(shards)
    assert [row.id for row in found] == [f"a.parquet:{n}" for n in range(7)]
    assert [(row.fields, row.error) for row in found] == [({}, None)] * 7


def test_a_file_with_fewer_rows_than_its_footer_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "a.parquet", records(10))
    short = pa.RecordBatch.from_pylist(records(9))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter([short]))
    with pytest.raises(InputError, match="row 9 is not there; it must be a whole and undamaged Parquet file"):
        rows(source(tmp_path / "a.parquet", "parquet"), 4)


NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9")]
)
ODD = {
    "time": (pa.array([0, 2**62], pa.timestamp("us")), "date value out of range"),
    "date": (pa.array([0, -800_000], pa.int32()).cast(pa.date32()), "date value out of range"),
    "text": (NO_TEXT, "'utf-8' codec can't decode"),
    "map": (pa.array([[], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())), "duplicate keys"),
}
"""A value that can be read, one that cannot, and why."""


@pytest.mark.parametrize(("array", "problem"), ODD.values(), ids=ODD)
def test_a_value_that_cannot_be_read_is_one_row_with_an_error(tmp_path: Path, array: pa.Array, problem: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "odd": array, "text": ["x", "y"]}), path)
    for job_input in (source(path, "parquet", id_field="id"), source(path, "parquet")):
        well, bad = rows(job_input)
        assert (well.error, well.fields["text"]) == (None, "x")
        assert bad.error is not None
        assert bad.error.code == "InvalidRow"
        assert "a.parquet at row 1: its value in 'odd' cannot be read: " in bad.error.message
        assert problem in bad.error.message
    with pytest.raises(InputError, match="its value in 'odd' cannot be read"):
        rows(source(path, "parquet", on_invalid_row="fail"))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_value_in_a_column_that_is_not_needed_harms_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "odd": ODD[name][0], "text": ["x", "y"]}), path)
    job_input = source(path, "parquet", id_field="id")
    assert sample_fields(list_files(job_input), job_input) == {"id", "odd", "text"}
    assert [row.error for row in rows(job_input, keep=frozenset({"text"}))] == [None, None]


def test_rows_without_an_id_are_rows_with_errors(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"id": "a"}, {"id": None}, {"id": "c"}])
    found = rows(source(tmp_path / "a.parquet", "parquet", id_field="id"))
    assert [row.id for row in found] == ["a", "a.parquet:1", "c"]
    assert found[1].error is not None
    assert "a.parquet at row 1: its id in 'id' must be" in found[1].error.message


def test_an_id_twice_in_a_shard_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"id": 1}, {"id": 2}, {"id": 1}])
    with pytest.raises(DuplicateIdError, match="at row 0 and at row 2"):
        rows(source(tmp_path / "a.parquet", "parquet", id_field="id"))
