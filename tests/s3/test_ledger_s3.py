"""The ledger on a real S3 server: conditional writes, faults, races, killed processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledgerkit import (
    LATER,
    assert_exactly_once,
    attempt_job,
    commit_of,
    job_spec,
    manifest_of,
    open_ledger,
    rows_of,
    shard_keys,
    table_of,
    to_table,
)
from llmbatch.errors import OutputError, StorageBusyError
from llmbatch.runtime.export import export
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.garbage import delete_garbage, find_garbage
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.storage import Folder, Retry
from s3kit import FAULTS, FaultProxy

pytestmark = pytest.mark.s3

QUICK = Retry(tries=12, first=0.01, longest=0.05)
KEYS = shard_keys(files=2, shards=10, rows=3)


def spec_on(proxy: FaultProxy, bucket: str, output_format: str = "parquet") -> Any:
    spec = job_spec(f"s3://{bucket}/some/out put", output_format)
    return spec.model_copy(update={"output": spec.output.model_copy(update={"storage": proxy.storage})})


def folder_on(proxy: FaultProxy, bucket: str, retry: Retry = QUICK) -> Folder:
    return Folder(f"s3://{bucket}/f", proxy.storage, retry=retry)


def test_a_create_is_sent_with_if_none_match_and_the_second_is_refused(proxy, bucket):
    folder = folder_on(proxy, bucket)
    assert folder.put_if_absent("key", b"mine")
    assert not folder.put_if_absent("key", b"other")
    folder.put("free", b"1")
    assert proxy.seen == [
        ("PUT", f"/{bucket}/f/key", "*"),
        ("PUT", f"/{bucket}/f/key", "*"),
        ("GET", f"/{bucket}/f/key", None),
        ("PUT", f"/{bucket}/f/free", None),
    ]


def test_a_server_that_ignores_if_none_match_is_refused(proxy, bucket):
    proxy.ignores_conditions = True
    with pytest.raises(OutputError, match=r"^output.uri: 's3://.*the store must refuse to create an object twice"):
        open_ledger(spec_on(proxy, bucket))


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_a_job_runs_resumes_and_is_final(proxy, bucket, output_format):
    spec = spec_on(proxy, bucket, output_format)
    ledger = open_ledger(spec)
    for key in KEYS[:7]:
        write_shard(ledger, spec, key, table_of(key))
    proxy.seen.clear()
    final = attempt_job(spec, KEYS, None, "second")
    assert final.rows == sum(key.rows for key in KEYS)
    assert_exactly_once(open_ledger(spec), KEYS)
    parts = [path for method, path, _ in proxy.seen if method == "PUT" and "/data/" in path]
    assert len(parts) == len(KEYS) - 7


def test_listing_goes_past_the_first_page(proxy, bucket):
    keys = shard_keys(files=1, shards=1050, rows=1)
    ledger = open_ledger(spec_on(proxy, bucket))
    for key in keys:
        ledger.commit(commit_of(key))
    proxy.seen.clear()
    assert sorted(ledger.committed()) == keys
    assert len(proxy.seen) == 2
    assert [commit.shard for commit in ledger.load_commits(keys)] == [str(key) for key in keys]


def race_for(key: str, proxy: FaultProxy, bucket: str) -> list[int]:
    wins: list[int] = []

    def create(me: int) -> None:
        if folder_on(proxy, bucket).put_if_absent(key, b"%d" % me):
            wins.append(me)

    threads = [threading.Thread(target=create, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wins


@pytest.mark.parametrize("seed", range(3))
def test_one_of_many_creators_wins_whatever_the_server_answers(proxy, bucket, seed):
    proxy.at_random(seed, rate=0.3)
    for number in range(10):
        wins = race_for(f"k{number}", proxy, bucket)
        assert len(wins) == 1
        assert folder_on(proxy, bucket).read(f"k{number}") == b"%d" % wins[0]
    assert set(proxy.faults) == set(FAULTS)


@pytest.mark.parametrize("seed", range(3))
def test_two_drivers_on_a_faulty_server_commit_every_row_once(proxy, bucket, seed):
    spec = spec_on(proxy, bucket)
    proxy.at_random(seed, rate=0.15)
    failures: list[BaseException] = []

    def drive(name: str) -> None:
        try:
            folder = Folder(spec.output.uri, spec.output.storage, retry=QUICK)
            attempt_job(spec, KEYS, folder.store, name)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    proxy.choose = lambda method, path: None
    assert failures == []
    assert_exactly_once(open_ledger(spec), KEYS)
    assert sum(proxy.faults.values()) > 20


def test_a_won_create_whose_answer_was_lost_is_known_as_won(proxy, bucket):
    for fault in ("drop after", "503 after"):
        answers = iter([fault])
        proxy.choose = lambda method, path, answers=answers: next(answers, None)
        key = fault.replace(" ", "-")
        assert folder_on(proxy, bucket).put_if_absent(key, b"mine")
        writes = [seen for seen in proxy.seen if seen[0] == "PUT" and seen[1].endswith(key)]
        assert len(writes) == 2


@pytest.mark.parametrize("status", ["409", "503", "429"])
def test_a_server_that_stays_busy_is_reported_as_busy(proxy, bucket, status):
    proxy.choose = lambda method, path: status if method == "PUT" else None
    folder = folder_on(proxy, bucket, Retry(tries=3, first=0.01, longest=0.02))
    with pytest.raises(StorageBusyError, match=rf"^output.uri: 's3://{bucket}/f': .*try again later$"):
        folder.put_if_absent("key", b"mine")


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("403", "the credentials in the environment must be allowed to list, read and write here"),
        ("401", "set valid credentials in the environment"),
        ("301", r"storage\.endpoint and storage\.region must be"),
        ("400", r"storage\.endpoint and storage\.region must be"),
    ],
)
def test_a_refusal_is_not_repeated_and_says_what_to_change(proxy, bucket, status, advice):
    proxy.choose = lambda method, path: status
    with pytest.raises(OutputError, match=rf"^output.uri: 's3://{bucket}/f': .*{advice}"):
        folder_on(proxy, bucket).put_if_absent("key", b"mine")
    assert len(proxy.seen) == 1


def test_a_bucket_that_is_not_there_is_named(proxy):
    with pytest.raises(OutputError, match=r"^output.uri: 's3://no-such-bucket/f': the bucket or"):
        folder_on(proxy, "no-such-bucket").put_if_absent("key", b"mine")


def test_a_server_that_is_not_there_is_busy():
    nobody = FaultProxy(port=9)
    with pytest.raises(StorageBusyError, match=r"127\.0\.0\.1:9/"):
        folder_on(nobody, "bucket", Retry(tries=2, first=0.01, longest=0.02)).put_if_absent("key", b"mine")


def test_losers_are_collected_after_final_and_grace(proxy, bucket):
    spec = spec_on(proxy, bucket, "openai")
    ledger = open_ledger(spec)
    for key in KEYS:
        write_shard(ledger, spec, key, table_of(key, failing=[0], ids=lambda row, key=key: f"{key}-{row}"))
        write_shard(ledger, spec, key, table_of(key, failing=[0], ids=lambda row, key=key: f"{key}-{row}"))
    final = finalize(ledger, manifest_of(KEYS), spec, LATER)
    now = datetime.now(UTC)
    later = now + timedelta(hours=2)
    assert list(find_garbage(ledger, final, now, 3600)) == []
    wanted = list(ledger.winners())
    # A server that throttles and drops connections leaves at most garbage behind.
    proxy.at_random(seed=1, rate=0.2, kinds=("503", "drop before"))
    deleted = delete_garbage(ledger, find_garbage(ledger, final, later, 3600))
    proxy.choose = lambda method, path: None
    assert deleted.files == 2 * len(KEYS)
    assert deleted.size > 0
    assert list(find_garbage(ledger, final, later, 0)) == []
    assert {entry.key for entry in ledger.folder.entries("data/")} == {winner.data for winner in wanted}
    assert {entry.key for entry in ledger.folder.entries("errors/")} == {winner.errors for winner in wanted}
    assert list(ledger.winners()) == wanted


@pytest.mark.parametrize(("status", "error"), [("403", OutputError), ("503", StorageBusyError)])
def test_a_store_that_does_not_let_delete_is_reported(proxy, bucket, status, error):
    folder = folder_on(proxy, bucket, Retry(tries=2, first=0.01, longest=0.02))
    folder.put("key", b"1")
    proxy.choose = lambda method, path: status
    with pytest.raises(error, match=rf"^output.uri: 's3://{bucket}/f': "):
        folder.delete(["key"])
    proxy.choose = lambda method, path: None
    assert folder.size("key") == 1


def test_an_export_that_fails_leaves_neither_object_nor_upload(proxy, bucket, s3_server):
    spec = spec_on(proxy, bucket, "jsonl")
    ledger = open_ledger(spec)
    big = [replace(row, fields={"text": os.urandom(3 << 19).hex()}) for row in rows_of(KEYS[0])]
    write_shard(ledger, spec, KEYS[0], to_table(big))
    for key in KEYS[1:]:
        write_shard(ledger, spec, key, table_of(key))
    finalize(ledger, manifest_of(KEYS), spec, LATER)
    export(ledger, f"s3://{bucket}/whole.jsonl")
    whole = Folder(f"s3://{bucket}", proxy.storage)
    assert whole.size("whole.jsonl") == sum(winner.size for winner in ledger.winners())
    assert any("partNumber" in path for _, path, _ in proxy.seen)

    victim = list(ledger.winners())[-1]
    ledger.folder.put(victim.data, b"{}")
    with pytest.raises(Exception, match="not the file that was committed"):
        export(ledger, f"s3://{bucket}/half.jsonl")
    assert whole.size("half.jsonl") is None
    with urllib.request.urlopen(f"http://127.0.0.1:{s3_server.port}/{bucket}?uploads", timeout=30) as answer:
        assert b"<Upload>" not in answer.read()


WORKER = """
import signal, sys
from ledgerkit import attempt_job, job_spec, shard_keys
from llmbatch.api.job import LLMBatchJobSpec
spec = LLMBatchJobSpec.model_validate_json(sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))  # The kernel ends the process then.
attempt_job(spec, shard_keys(files=2, shards=30, rows=3), None, sys.argv[2])
print("done", flush=True)
"""


@pytest.mark.parametrize("place", ["s3", "local"])
def test_killed_processes_lose_no_row_and_double_none(proxy, bucket, tmp_path, place):
    keys = shard_keys(files=2, shards=30, rows=3)
    spec = spec_on(proxy, bucket) if place == "s3" else job_spec(str(tmp_path))
    draw = random.Random(place)
    kills = 0
    for round_ in range(4):
        workers = [start_worker(spec, f"{round_}-{number}", draw.uniform(0.001, 0.15)) for number in range(2)]
        for worker in workers:
            worker.communicate()
            kills += worker.returncode == -signal.SIGALRM
    last = start_worker(spec, "last")
    assert last.communicate(timeout=300)[0].endswith(b"done\n")
    assert kills >= 3
    assert_exactly_once(open_ledger(spec), keys)


def start_worker(spec: Any, name: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent / "operator"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, spec.model_dump_json(by_alias=True), name, str(seconds)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
