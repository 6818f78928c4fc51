"""`llmbatch run` as a user runs it: a process with an embedded Ray, stopped, killed and run again."""

import gzip
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from runkit import ROOT, commits, rows_of, run, watch

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

EXAMPLES = ROOT / "examples"


def input_ids(files: list[Path], field: str) -> list[str]:
    ids = []
    for file in files:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        ids += [json.loads(line)[field] for line in data.splitlines()]
    return ids


CORPUS = sorted((EXAMPLES / "data" / "jargon").iterdir())


def test_the_quickstart_gives_every_row_once_and_a_report(tmp_path: Path) -> None:
    code, last = run(EXAMPLES / "quickstart.yaml", tmp_path / "out", "--report", str(tmp_path / "report.html"))
    assert (code, last["result"]["state"]) == (0, "complete")
    rows = rows_of(tmp_path / "out")
    assert Counter(row["id"] for row in rows) == Counter(input_ids(CORPUS, "id"))
    assert all(row["summarise"] and row["judge"] and row["error"] is None for row in rows)
    assert any("simulated" in warning for warning in last["progress"]["warnings"])
    report = (tmp_path / "report.html").read_text()
    assert "<svg" in report
    assert "http-equiv" not in report
    assert "src=" not in report


def test_openai_requests_come_back_as_openai_results(tmp_path: Path) -> None:
    code, _ = run(EXAMPLES / "openai-batch.yaml", tmp_path / "out")
    assert code == 0
    rows = rows_of(tmp_path / "out")
    expected = input_ids([EXAMPLES / "data" / "requests.jsonl"], "custom_id")
    assert Counter(row["custom_id"] for row in rows) == Counter(expected)
    assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in rows)


def test_a_csv_is_embedded(tmp_path: Path) -> None:
    code, _ = run(EXAMPLES / "embed.yaml", tmp_path / "out")
    assert code == 0
    rows = rows_of(tmp_path / "out")
    assert Counter(row["id"] for row in rows) == Counter(input_ids(CORPUS, "id"))


@pytest.fixture
def slow_job(tmp_path: Path) -> Path:
    """The quickstart, slow enough to be stopped in the middle."""
    document = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    document["spec"]["stages"][0]["simulation"] = {"secondsPerRow": 0.15}
    document["spec"]["shardRows"] = 10
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def until_some_shards(job: Path, output: Path, sent: signal.Signals) -> tuple[int, dict[str, Any]]:
    """Run until ten shards are committed, send a signal to the process, and return its exit code and last line."""

    def react(pid: int, progress: dict[str, Any]) -> bool:
        if progress["shardsCommitted"] < 10:
            return False
        os.kill(pid, sent)
        return True

    return watch(job, output, react)


def test_ctrl_c_stops_and_the_next_run_goes_on(slow_job: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, stopped = until_some_shards(slow_job, output, signal.SIGINT)
    assert code == 130
    assert stopped["progress"]["rows"].get("rowsTotal") in (None, len(input_ids(CORPUS, "id")))
    before = commits(output)
    assert 10 <= len(before) < 36
    code, last = run(slow_job, output)
    assert code == 0
    assert last["progress"]["shardsSkipped"] == len(before)
    after = commits(output)
    assert {name: after[name] for name in before} == before
    assert Counter(row["id"] for row in rows_of(output)) == Counter(input_ids(CORPUS, "id"))
    code, last = run(slow_job, output)
    assert (code, last["progress"]["shardsSkipped"]) == (0, len(after))


def test_a_killed_driver_loses_and_doubles_nothing(slow_job: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert until_some_shards(slow_job, output, signal.SIGKILL)[0] == -signal.SIGKILL
    before = commits(output)
    code, _ = run(slow_job, output)
    assert code == 0
    after = commits(output)
    assert {name: after[name] for name in before} == before
    assert Counter(row["id"] for row in rows_of(output)) == Counter(input_ids(CORPUS, "id"))


def test_too_many_failed_rows_fail_the_job_and_keep_what_is_committed(tmp_path: Path) -> None:
    document = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    document["spec"]["stages"][0]["simulation"] = {"errorRate": 0.5}
    path = tmp_path / "failing.yaml"
    path.write_text(yaml.safe_dump(document))
    code, last = run(path, tmp_path / "out")
    assert code == 1
    assert "failurePolicy.maxErrorRate" in last["result"]["error"]
    assert commits(tmp_path / "out")
