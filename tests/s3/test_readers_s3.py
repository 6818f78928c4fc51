"""Listing and reading input on an S3 server, also one that throttles and drops answers."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmbatch.api.job import Input
from llmbatch.errors import InputError, StorageBusyError
from llmbatch.runtime.readers import objects
from llmbatch.runtime.readers.listing import list_files, sample_fields
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.shards import plan_splits
from llmbatch.runtime.storage import Retry, open_store
from readerkit import compress, json_lines, read, rows_of
from s3kit import FaultProxy, S3Server

pytestmark = pytest.mark.s3
KEYS = [
    "docs/a.jsonl",
    "docs/b c%20d.jsonl",
    "docs/b.jsonl.gz",
    "docs/old/c.jsonl",
    "docs/old/deep/d.jsonl",
    "docs/ä.jsonl",
    "docs2/e.jsonl",
    "top.jsonl",
]


def section(server: S3Server, uri: str, **options: object) -> Input:
    return Input.model_validate({"uri": uri, "format": "jsonl", "storage": server.storage.model_dump(), **options})


def upload(server: S3Server, bucket: str, key: str, data: bytes) -> None:
    open_store(f"s3://{bucket}", server.storage).put(key, data)


@pytest.fixture
def filled(s3_server: S3Server, bucket: str) -> str:
    for key in KEYS:
        data = json_lines([{"id": f"{key}/{n}"} for n in range(10)])
        upload(s3_server, bucket, key, compress(data, "gzip") if key.endswith(".gz") else data)
    return bucket


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("docs/a.jsonl", ["a.jsonl"]),
        ("docs/*.jsonl", ["a.jsonl", "b c%20d.jsonl", "ä.jsonl"]),
        ("docs/**/*.jsonl*", ["a.jsonl", "b c%20d.jsonl", "b.jsonl.gz", "old/c.jsonl", "old/deep/d.jsonl", "ä.jsonl"]),
        ("*/[ae].jsonl", ["docs/a.jsonl", "docs2/e.jsonl"]),
        ("*.jsonl", ["top.jsonl"]),
        ("docs/*/*.jsonl", ["old/c.jsonl"]),
        ("**", KEYS),
    ],
)
def test_globs_mean_what_they_mean_on_a_disk(s3_server: S3Server, filled: str, pattern: str, found: list[str]) -> None:
    job_input = section(s3_server, f"s3://{filled}/{pattern}", id_field="id")
    files = list_files(job_input)
    assert [file.path for file in files] == sorted(found)
    assert all(file.etag for file in files)
    ids = [row.id for row in rows_of(read(job_input, 3))]
    assert ids == [f"{file.uri.removeprefix(f's3://{filled}/')}/{n}" for file in files for n in range(10)]
    assert sample_fields(files, job_input) == {"id"}


def test_a_listing_of_many_pages_is_whole(s3_server: S3Server, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/many", s3_server.storage)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"{number:05d}.jsonl", b"{}"), range(1100)))
    for pattern in ("many/*.jsonl", "**/*.jsonl"):
        files = list_files(section(s3_server, f"s3://{bucket}/{pattern}"))
        assert [file.uri[-11:] for file in files] == [f"{number:05d}.jsonl" for number in range(1100)]


@pytest.mark.parametrize("pattern", ["nope.jsonl", "docs", "nope/*.jsonl", "docs/*.csv"])
def test_a_missing_key_and_an_empty_glob_are_told(s3_server: S3Server, filled: str, pattern: str) -> None:
    with pytest.raises(InputError, match=rf"^input\.uri: 's3://{filled}/.*': .*must"):
        list_files(section(s3_server, f"s3://{filled}/{pattern}"))


def test_a_missing_bucket_is_told(s3_server: S3Server) -> None:
    with pytest.raises(InputError, match=r"^input\.uri: 's3://no-such-bucket/\*': "):
        list_files(section(s3_server, "s3://no-such-bucket/*"))


def test_an_object_that_changes_while_it_is_read_is_refused(s3_server: S3Server, bucket: str) -> None:
    text = json_lines([{"id": n, "text": "x" * 1000} for n in range(1000)])
    upload(s3_server, bucket, "a.jsonl", text)
    job_input = section(s3_server, f"s3://{bucket}/a.jsonl", id_field="id")
    [split] = plan_splits(list_files(job_input), job_input, [])
    shards = read_split_tables(split, job_input, 10, None)
    next(shards)
    upload(s3_server, bucket, "a.jsonl", text.replace(b"x", b"y"))
    with pytest.raises(InputError, match="the file changed since the job began"):
        list(shards)


def test_a_split_in_the_middle_asks_for_its_own_bytes_only(proxy: FaultProxy, bucket: str) -> None:
    records = [{"id": n, "text": "x" * 1000} for n in range(3000)]
    upload(proxy, bucket, "a.jsonl", json_lines(records))
    job_input = section(proxy, f"s3://{bucket}/a.jsonl", id_field="id")
    splits = plan_splits(list_files(job_input), job_input, [], split_bytes=2**20)
    raw = objects.ObjectFile(splits[1].file, job_input)
    proxy.seen.clear()
    ids = [
        row
        for _, table in read_split_tables(splits[1], job_input, 100, None, raw=raw)
        for row in table["id"].to_pylist()
    ]
    assert ids == [str(n) for n in range(int(ids[0]), int(ids[-1]) + 1)]
    assert raw.bytes_read <= 2**20 + 2 * 2**20
    assert {method for method, _, _ in proxy.seen} == {"GET"}


def test_throttling_and_lost_answers_cost_no_row(proxy: FaultProxy, filled: str) -> None:
    job_input = section(proxy, f"s3://{filled}/**", id_field="id")
    whole = read(job_input, 3)
    for seed in range(3):
        proxy.at_random(seed, 0.3, ("503", "drop before", "drop after"))
        assert read(job_input, 3) == whole
    assert sum(proxy.faults.values()) > 10


def test_a_store_that_never_answers_is_busy_not_wrong(
    proxy: FaultProxy, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_input = section(proxy, f"s3://{filled}/docs/a.jsonl")
    [split] = plan_splits(list_files(job_input), job_input, [])
    hasty = open_store(f"s3://{filled}/docs/", proxy.storage, name="input.uri", retry=Retry(tries=2, first=0.01))
    monkeypatch.setattr(objects, "_store", lambda base, storage: hasty)
    proxy.choose = lambda method, path: "503"
    with pytest.raises(StorageBusyError, match="retries are used up, try again later"):
        list(read_split_tables(split, job_input, 3, None))


def test_public_access_needs_no_credentials(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{s3_server.port}/{bucket}/a.jsonl"
    headers = {"x-amz-acl": "public-read", "content-type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(address, b'{"id":1}', headers, method="PUT"), timeout=30):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    job_input = section(s3_server, f"s3://{bucket}/a.jsonl")
    storage = s3_server.storage.model_copy(update={"anonymous": True})
    assert len(rows_of(read(job_input.model_copy(update={"storage": storage})))) == 1
