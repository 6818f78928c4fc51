"""`llmbatch run` as a user runs it: a process with an embedded Ray, stopped, killed and run again."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STORE = ["--object-store-mb", "150"]


def command(job: Path, output: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "llmbatch"), "run", str(job), "--output", str(output), "--json", *STORE]


def run(job: Path, output: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([*command(job, output), *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the rows of the parts that count, by `_FINAL`."""
    final = json.loads((output / "_FINAL").read_text())
    winners = pq.read_table(output / final["winners"]["key"]).to_pylist()
    rows: list[dict[str, Any]] = []
    for winner in winners:
        path = output / winner["data"]
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


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
    document["spec"]["stages"][0]["simulation"] = {"secondsPerRow": 0.3}
    document["spec"]["shardRows"] = 10
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def until_some_shards(job: Path, output: Path, sent: signal.Signals) -> int:
    """Run until ten shards are committed, send a signal to the process, and return its exit code."""
    with subprocess.Popen(
        command(job, output), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["progress"]["shardsCommitted"] >= 10:
                process.send_signal(sent)
                break
        process.stdout.read()
        code = process.wait()
    if sent == signal.SIGKILL:
        # A killed driver takes no one along: its Ray is this session's, and ends with it.
        end_session(process.pid)
    return code


def end_session(leader: int) -> None:
    for entry in Path("/proc").iterdir():
        # A process may end by itself between the listing and the signal.
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                os.kill(int(entry.name), signal.SIGKILL)


def commits(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("_ledger/*/commits/*") if "#" not in path.name}


def test_ctrl_c_stops_and_the_next_run_goes_on(slow_job: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert until_some_shards(slow_job, output, signal.SIGINT) == 130
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
    assert until_some_shards(slow_job, output, signal.SIGKILL) == -signal.SIGKILL
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
