"""Which files a URI names, and what a user is told when it names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbatch.errors import DuplicateIdError, InputError
from llmbatch.runtime.readers.listing import list_files, sample_fields
from llmbatch.runtime.readers.objects import locate
from readerkit import compress, json_lines, source, write_parquet

FILES = [
    "a.jsonl",
    "b.jsonl",
    "b.txt",
    ".hidden.jsonl",
    "sub/c.jsonl",
    "sub/deep/d.jsonl",
    "sub/.git/e.jsonl",
    "other/c.jsonl",
    "other/c.jsonl.gz",
    "A.jsonl",
]
ODD_NAMES = ["we ird#1%20 [x].jsonl", "ä.jsonl", "100%.jsonl", "a*b?.jsonl", "~t.jsonl"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["A.jsonl", "a.jsonl", "b.jsonl"]),
        ("?.jsonl", ["A.jsonl", "a.jsonl", "b.jsonl"]),
        ("[ab].*", ["a.jsonl", "b.jsonl", "b.txt"]),
        ("*/c.jsonl", ["other/c.jsonl", "sub/c.jsonl"]),
        ("{sub,other}/*.jsonl*", ["other/c.jsonl", "other/c.jsonl.gz", "sub/c.jsonl"]),
        ("{sub/deep,other}/*.jsonl", ["other/c.jsonl", "sub/deep/d.jsonl"]),
        ("**/*.jsonl", ["A.jsonl", "a.jsonl", "b.jsonl", "other/c.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]),
        ("sub/**/*.jsonl", ["c.jsonl", "deep/d.jsonl"]),
        ("s*/**/d.jsonl", ["sub/deep/d.jsonl"]),
    ],
)
def test_globs(folder: Path, pattern: str, found: list[str]) -> None:
    files = list_files(source(folder / pattern))
    assert [file.path for file in files] == found
    assert [file.index for file in files] == list(range(len(found)))
    for file in files:
        assert Path(file.uri).stat().st_size == file.size
        assert file.etag


def test_a_changed_file_has_another_etag(folder: Path) -> None:
    before = list_files(source(folder / "a.jsonl"))
    (folder / "a.jsonl").write_text("a.jsonL")
    assert list_files(source(folder / "a.jsonl"))[0].etag != before[0].etag


@pytest.mark.parametrize("uri", ["{0}/*.jsonl", "file://{0}/*.jsonl", "file:{0}/*.jsonl"])
def test_a_local_address_in_each_of_its_forms(folder: Path, uri: str) -> None:
    assert len(list_files(source(uri.format(folder)))) == 3


def test_a_path_relative_to_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [file.uri for file in list_files(source("a.jsonl"))] == ["a.jsonl"]
    assert [file.uri for file in list_files(source("sub/*.jsonl"))] == ["sub/c.jsonl"]


def test_names_with_odd_characters_are_read_as_they_are(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(json_lines([{"name": name}]))
    files = list_files(source(tmp_path / "*.jsonl"))
    assert sorted(file.path for file in files) == sorted(ODD_NAMES)
    for file in files:
        assert sample_fields([file], source(tmp_path / "*.jsonl")) == {"name"}


@pytest.mark.parametrize("uri", ["{0}/nope.jsonl", "{0}/nope/a.jsonl", "{0}/nope/*.jsonl", "{0}/sub", "{0}/"])
def test_a_missing_file_is_told_with_field_value_and_what_is_allowed(folder: Path, uri: str) -> None:
    with pytest.raises(InputError, match=r"^input\.uri: '.*': there is no such file; it must be a file or a glob"):
        list_files(source(uri.format(folder)))


def test_an_empty_glob_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^input\.uri: '.*nope-\*': a glob must match at least one file"):
        list_files(source(folder / "nope-*"))


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz", "a.zip"])
def test_a_compression_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"plain, gzip \(.gz\) or zstd \(.zst\)"):
        list_files(source(tmp_path / "*"))


def test_compressed_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(compress(b"x", "gzip"))
    with pytest.raises(InputError, match="Parquet compresses inside"):
        list_files(source(tmp_path / "*", "parquet"))


@pytest.mark.parametrize(
    ("uri", "base", "pattern"),
    [
        ("s3://bucket/a/b.jsonl", "s3://bucket/a/", "b.jsonl"),
        ("s3://bucket/*.jsonl", "s3://bucket/", "*.jsonl"),
        ("s3://bucket/a/p-*/x.jsonl", "s3://bucket/a/", "p-*/x.jsonl"),
        ("gs://bucket/a%20b/c%20d.csv", "gs://bucket/a%20b/", "c d.csv"),
        ("abfs://box@account.dfs.core.windows.net/in/**", "abfs://box@account.dfs.core.windows.net/in/", "**"),
        ("a%20b.csv", ".", "a%20b.csv"),
    ],
)
def test_an_address_is_divided_at_its_first_wildcard(uri: str, base: str, pattern: str) -> None:
    place = locate(uri)
    assert (place.base, place.pattern) == (base, pattern)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://buck*/a.jsonl", "folder/"])
def test_an_address_without_a_file_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="must be a file or a glob"):
        locate(uri)


def test_the_sample_has_the_fields_of_all_first_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    (tmp_path / "b.jsonl").write_bytes(b"broken\n" + json_lines([{"x": 1}, {"y": 2}]))
    job_input = source(tmp_path / "*.jsonl")
    assert sample_fields(list_files(job_input), job_input) == {"x", "y"}


def test_the_sample_of_an_input_without_rows_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    job_input = source(tmp_path / "*.jsonl")
    assert sample_fields(list_files(job_input), job_input) == frozenset()


def test_another_format_than_declared_is_told_at_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a", [{"x": 1}])
    job_input = source(tmp_path / "a")
    with pytest.raises(InputError, match=r"^input\.format: 'jsonl': no row at the beginning can be read as it"):
        sample_fields(list_files(job_input), job_input)


def test_an_id_field_that_no_row_has_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"x": 1}] * 3))
    job_input = source(tmp_path / "a.jsonl", id_field="key")
    with pytest.raises(InputError, match="no field 'key', which must hold its id; its fields are 'x'"):
        sample_fields(list_files(job_input), job_input)


def test_the_sample_of_parquet_has_all_columns_and_looks_at_the_first_ids(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"key": "a", "x": 1}, {"key": "b", "x": 2}])
    write_parquet(tmp_path / "b.parquet", [{"key": "a", "x": 1}, {"key": "a", "x": 2}])
    write_parquet(tmp_path / "c.parquet", [{"key": 0.5, "x": 1}])
    job_input = source(tmp_path / "*.parquet", "parquet", id_field="key")
    well, repeated, without = list_files(job_input)
    assert sample_fields([well], job_input) == {"key", "x"}
    with pytest.raises(DuplicateIdError, match="at row 0 and at row 1"):
        sample_fields([repeated], job_input)
    with pytest.raises(InputError, match=r"no row at the beginning can be read as it; .* its id in 'key' must be"):
        sample_fields([without], job_input)
