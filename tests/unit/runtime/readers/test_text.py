"""JSON lines, OpenAI requests and CSV: what is read, and what becomes of what cannot be read."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llmbatch.errors import DuplicateIdError, InputError
from llmbatch.runtime.readers import text
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.rows import Row
from llmbatch.runtime.shards import plan_splits
from readerkit import compress, json_lines, read, rows, rows_of, source

CODECS = {"": None, ".gz": "gzip", ".zst": "zstd"}


def write(folder: Path, data: bytes, name: str = "a.jsonl") -> Path:
    path = folder / name
    codec = next((codec for suffix, codec in CODECS.items() if suffix and name.endswith(suffix)), None)
    path.write_bytes(data if codec is None else compress(data, codec))
    return path


def problems(found: list[Row]) -> list[str]:
    assert all(row.error is None or (row.error.stage, row.error.code) == ("input", "InvalidRow") for row in found)
    return [row.error.message if row.error else "" for row in found]


def values(found: list[Row], name: str = "n") -> list[Any]:
    return [row.fields.get(name) for row in found]


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize(
    "data",
    [
        b'{"n":1}\n{"n":2}\n',
        b'{"n":1}\n{"n":2}',
        b'{"n":1}\r\n{"n":2}\r\n',
        b'\xef\xbb\xbf{"n":1}\n{"n":2}\n',
        b'\n\n{"n":1}\n  \t\n\r\n{"n":2}\n\n\n',
        b' {"n": 1} \n\t{"n": 2}',
    ],
    ids=["plain", "no last line end", "CRLF", "byte order mark", "blank lines", "spaces"],
)
@pytest.mark.parametrize("id_field", [None, "n"])
def test_json_lines_in_all_their_forms(tmp_path: Path, data: bytes, suffix: str, id_field: str | None) -> None:
    path = write(tmp_path, data, f"a.jsonl{suffix}")
    found = rows(source(path, id_field=id_field), 1)
    assert values(found) == [1, 2]
    name = path.name
    assert [row.id for row in found] == (["1", "2"] if id_field else [f"{name}:0", f"{name}:1"])


@pytest.mark.parametrize("suffix", CODECS)
def test_several_members_are_one_file(tmp_path: Path, suffix: str) -> None:
    codec = CODECS[suffix]
    halves = [b'{"n":1}\n{"n"', b":2}\n"]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(half if codec is None else compress(half, codec) for half in halves))
    assert values(rows(source(path))) == [1, 2]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("cut", [0, 3, 0.5, -1])
def test_a_truncated_file_fails_and_says_how_far_it_was_read(tmp_path: Path, suffix: str, cut: float) -> None:
    path = write(tmp_path, json_lines([{"n": n, "x": n * 7919 % 1009} for n in range(20_000)]), f"a.jsonl{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    job_input = source(path)
    [split] = plan_splits(list_files(job_input), job_input, [])
    rows_given: list[int] = []
    with pytest.raises(InputError, match=r"^input\.uri: '.*': .*cut off or damaged after its line \d+") as error:
        rows_given.extend(key.rows for key, _ in read_split_tables(split, job_input, 100, None))
    count = sum(rows_given)
    line = int(str(error.value).split("after its line ")[1].split()[0])
    assert count <= line <= 20_000
    assert line - count <= 101, "whole shards before the damage are given out"


@pytest.mark.parametrize(("suffix", "data"), [(".gz", b"no gzip at all"), (".zst", b"no zstd at all")])
def test_a_file_that_is_not_what_its_suffix_says_is_told(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged after its line 0"):
        rows(source(path))


def test_a_damaged_byte_inside_gzip_is_told(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(json_lines([{"n": n} for n in range(5000)])))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        rows(source(path))


BROKEN = (
    b'{"id":"a"}\n{"id":"b"\n[1]\n{"id":null}\n{"n":4}\n{"id":""}\n{"id":true}\n{"id":1.5}\n\xff\n"x"\n{"id":"z"}\n'
)
BROKEN_WORDS = [
    "",
    "not JSON",
    "must be a JSON object, and is [1]",
    "must be a text or an integer, and is null",
    "has no field 'id', which must hold its id; its fields are 'n'",
    "must be a text or an integer, and is empty",
    "must be a text or an integer, and is true",
    "must be a text or an integer, and is 1.5",
    "not JSON",
    'must be a JSON object, and is "x"',
    "",
]


def test_a_row_that_cannot_be_read_is_a_row_with_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, BROKEN)
    found = rows(source(path, id_field="id"))
    messages = problems(found)
    assert len(found) == BROKEN.count(b"\n")
    for message, words in zip(messages, BROKEN_WORDS, strict=True):
        assert words in message
        assert bool(words) == bool(message)
    assert messages[1].startswith(f"{path} at byte 11: not JSON: ")
    assert found[1].id == "a.jsonl@11"
    assert len({row.id for row in found}) == len(found)


def test_errors_name_the_line_where_there_are_no_bytes_to_seek(tmp_path: Path) -> None:
    path = write(tmp_path, b'\n{"id":"a"}\n\n{"id":"b"\n', "a.jsonl.gz")
    found = rows(source(path, id_field="id"))
    assert problems(found)[1].startswith(f"{path} at line 4: not JSON")
    assert [row.id for row in found] == ["a", "a.jsonl.gz:1"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_an_error_reads_the_same_after_a_resume(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, b'{"id":"a"}\n\n{"id":"b"}\n{"id":"c"\n', name)
    job_input = source(path, id_field="id")
    whole = read(job_input, 1)
    resumed = read(job_input, 1, committed=tuple(sorted(whole)[:2]))
    assert rows_of(resumed) == rows_of(whole)[2:]


def test_policy_fail_stops_at_the_first_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"id":"a"}\n{"id":"b"\n')
    with pytest.raises(InputError, match=r"^input\.uri: '.*a\.jsonl at byte 11': not JSON.*onInvalidRow: record"):
        rows(source(path, id_field="id", on_invalid_row="fail"))


def test_ids_are_texts_or_integers(tmp_path: Path) -> None:
    data = json_lines([{"id": "x"}, {"id": 7}, {"id": 0}, {"id": -(2**63)}, {"id": 2**64 - 1}, {"id": "ä\u2028"}])
    found = rows(source(write(tmp_path, data), id_field="id"))
    assert [row.id for row in found] == ["x", "7", "0", str(-(2**63)), str(2**64 - 1), "ä\u2028"]


def test_only_the_fields_that_are_needed_travel(tmp_path: Path) -> None:
    data = json_lines([{"id": 1, "a": {"deep": [1, None]}, "b": 2}, {"id": 2, "b": 3}])
    found = rows(source(write(tmp_path, data), id_field="id"), keep=frozenset({"a", "b"}))
    assert [row.fields for row in found] == [{"a": {"deep": [1, None]}, "b": 2}, {"b": 3}]


def test_all_fields_travel_as_they_stand(tmp_path: Path) -> None:
    record = {"id": 1, "a": {"deep": [1.5, None, True, "ä\n"]}, "big": 12345678901234567}
    assert rows(source(write(tmp_path, json_lines([record])), id_field="id"))[0].fields == record


def test_an_id_twice_in_a_shard_is_refused_naming_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"id":"a"}\n{"id":"b"}\n{"id":"a"}\n')
    with pytest.raises(
        DuplicateIdError, match=rf"^input\.id: 'a': ids must be unique; {path} has it at byte 0 and at byte 22"
    ):
        rows(source(path, id_field="id"))
    assert len(rows(source(path, id_field="id", unique_ids="trust"))) == 3


def test_a_line_longer_than_a_split_belongs_to_the_split_it_begins_in(tmp_path: Path) -> None:
    records = [{"id": n, "text": "x" * (400 if n == 1 else 3)} for n in range(4)]
    shards = read(source(write(tmp_path, json_lines(records)), id_field="id"), 2, split_bytes=50)
    assert [row.id for row in rows_of(shards)] == ["0", "1", "2", "3"]
    empty = [key for key in shards if key.rows == 0]
    assert empty
    assert all(key.last and key.seq == 0 for key in empty), "a split without rows is one empty shard"


def test_a_line_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(text, "FIRST_READ", 100)
    path = write(tmp_path, b'{"n":1}\n' + b"[" * 3000)
    with pytest.raises(InputError, match="must be one line of at most 1000 bytes; the one at byte 8 is longer"):
        rows(source(path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, ("\ufeff" + '{"n":1}\n').encode(encoding))
    with pytest.raises(InputError, match="must be UTF-8; this file is UTF-16"):
        rows(source(path))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_file_without_rows_is_one_empty_shard(tmp_path: Path, suffix: str) -> None:
    job_input = source(write(tmp_path, b"\n \n", f"a.jsonl{suffix}"), id_field="id")
    [key] = shards = read(job_input)
    assert (key.rows, key.last, shards[key]) == (0, True, [])
    assert read(job_input, committed=(key,)) == {}


def test_a_file_of_no_bytes_is_one_empty_shard(tmp_path: Path) -> None:
    assert [key.rows for key in read(source(write(tmp_path, b"")))] == [0]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "FIRST_READ", 64)
    path = write(tmp_path, json_lines([{"n": n} for n in range(100)]))
    job_input = source(path)
    [split] = plan_splits(list_files(job_input), job_input, [])
    shards = read_split_tables(split, job_input, 5, None)
    next(shards)
    path.write_bytes(json_lines([{"n": -n} for n in range(100)]))
    with pytest.raises(InputError, match="the file changed since the job began"):
        list(shards)


def test_a_file_that_goes_away_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"n":1}\n')
    job_input = source(path)
    [split] = plan_splits(list_files(job_input), job_input, [])
    path.unlink()
    with pytest.raises(InputError, match="the file is gone since the job began"):
        list(read_split_tables(split, job_input, 5, None))


def request(custom_id: object, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


MESSAGES = [{"role": "user", "content": "hi"}]


def test_the_fields_of_an_openai_request(tmp_path: Path) -> None:
    data = json_lines([request("a", model="m", messages=MESSAGES, seed=1), request("b", input="text")])
    job_input = source(write(tmp_path, data), "openai")
    first, second = rows(job_input)
    assert (first.id, second.id) == ("a", "b")
    assert first.fields == request("a", model="m", messages=MESSAGES, seed=1) | {"model": "m", "messages": MESSAGES}
    assert second.fields["input"] == "text"
    assert [row.fields for row in rows(job_input, keep=frozenset({"messages"}))] == [{"messages": MESSAGES}, {}]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (request("a"), "body must have messages"),
        (request("a", messages=[]), "body must have messages"),
        (request("a", messages="hi"), "body must have messages"),
        (request("a", input=""), "body must have messages"),
        ({"custom_id": "a", "body": "x"}, "body must be an object"),
        ({"custom_id": "a"}, "body must be an object"),
        ({"body": {"messages": MESSAGES}}, "no field 'custom_id'"),
        (request(None, messages=MESSAGES), "'custom_id' must be a text or an integer, and is null"),
    ],
)
def test_a_request_that_is_none_is_a_row_with_an_error(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    found = rows(source(write(tmp_path, json_lines([record, request("z", input="x")])), "openai"))
    messages = problems(found)
    assert words in messages[0]
    assert messages[1] == ""
    assert found[0].id == ("a" if record.get("custom_id") else "a.jsonl@0")


CSV_ROWS = [["id", "text"], ["1", 'a "quoted", text'], ["2", "two\nlines\r\nthree"], ["3", ""], ["007", "ä "]]


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("shard_rows", [1, 3])
def test_csv_with_quotes_line_breaks_and_empty_lines(
    tmp_path: Path, suffix: str, line_end: str, mark: str, shard_rows: int
) -> None:
    path = tmp_path / "plain.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        csv.writer(file, lineterminator=line_end).writerows(CSV_ROWS)
        file.write(line_end * 2)
    path = write(tmp_path, path.read_bytes(), f"a.csv{suffix}")
    found = rows(source(path, "csv", id_field="id"), shard_rows)
    assert [[row.fields["id"], row.fields["text"]] for row in found] == CSV_ROWS[1:]
    assert [row.id for row in found] == ["1", "2", "3", "007"]
    assert [row.id for row in rows(source(path, "csv"), shard_rows)] == [f"{path.name}:{n}" for n in range(4)]


def test_csv_rows_that_break_the_rules_are_rows_with_errors(tmp_path: Path) -> None:
    data = b'id,text\n1,a\n2\n3,a,b\n4,"x"y\n5,\xff\n6,z\n'
    found = rows(source(write(tmp_path, data, "a.csv"), "csv", id_field="id"))
    messages = problems(found)
    words = ["", "1 values where the header has 2", "3 values where", "not CSV", "not UTF-8", ""]
    for message, expected in zip(messages, words, strict=True):
        assert expected in message
        assert bool(expected) == bool(message)
    assert [row.id for row in found] == ["1", "a.csv:1", "a.csv:2", "a.csv:3", "a.csv:4", "6"]


@pytest.mark.parametrize("keep", [None, frozenset({"text"})])
def test_an_id_in_another_encoding_is_a_row_with_an_error(tmp_path: Path, keep: frozenset[str] | None) -> None:
    path = write(tmp_path, "id,text\nabc,x\ndéf,y\nghi,z\n".encode("latin-1"), "a.csv")
    found = rows(source(path, "csv", id_field="id"), keep=keep)
    assert [row.id for row in found] == ["abc", "a.csv:1", "ghi"]
    assert [bool(problem) for problem in problems(found)] == [False, True, False]
    assert problems(found)[1].endswith("a.csv at byte 14: its id is not UTF-8")
    with pytest.raises(InputError, match="its id is not UTF-8; repair the row"):
        rows(source(path, "csv", id_field="id", on_invalid_row="fail"), keep=keep)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,text,id\n1,a,2\n", "repeats 'id'"),
        (b'id,"text\n1,a\n', "never closed"),
        (b'id,"te"xt\n1,a\n', "its header cannot be read"),
        (b'id,text\n1,"a\n2,b\n3,c\n', "the quoted field in the record at byte 8 is never closed"),
    ],
)
def test_csv_whose_rows_cannot_be_told_apart_fails(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rows(source(write(tmp_path, data, "a.csv"), "csv", id_field="id"))


def test_a_quote_that_swallows_too_much_is_found_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 1000)
    data = b'id,text\n1,"a\n' + b"2,b\n" * 1000 + b'3,c"\n'
    with pytest.raises(InputError, match="byte 8 is never closed"):
        rows(source(write(tmp_path, data, "a.csv"), "csv", id_field="id"))


def test_an_id_field_that_is_no_column_is_told_with_the_columns(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^input\.idField: 'key': it must be a column of .*a\.csv, which has id, text"
    ):
        rows(source(write(tmp_path, b"id,text\n1,a\n", "a.csv"), "csv", id_field="key"))


@pytest.mark.parametrize("data", [b"", b"id,text\n", b"\n\nid,text\n\n"])
def test_csv_without_rows_is_one_empty_shard(tmp_path: Path, data: bytes) -> None:
    assert [key.rows for key in read(source(write(tmp_path, data, "a.csv"), "csv", id_field="id"))] == [0]


def test_a_value_larger_than_the_modules_own_limit_is_read(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    found = rows(source(write(tmp_path, f"id,text\n1,{long}\n".encode(), "a.csv"), "csv"))
    assert values(found, "text") == [long]


def test_the_start_of_a_shard_is_its_byte(tmp_path: Path) -> None:
    data = b'\n{"n":1}\n{"n":2}\n{"n":3}\n'
    shards = read(source(write(tmp_path, data)), 2)
    assert [[row.start for row in shards[key]] for key in sorted(shards)] == [[1, 1], [17]]
    assert json.loads(data[17:]) == {"n": 3}
