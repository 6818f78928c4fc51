"""What dies without a word while a job runs: a replica, a node, another driver. `benchmarks/kill_runs.py` does it at
random; here each is done once."""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import job
from runkit import rows_of, run, session, watch

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IDS = [f"row-{number}" for number in range(240)]


@pytest.fixture
def slow_job(tmp_path: Path) -> Path:
    """Two chained stages that take some seconds together."""
    (tmp_path / "in").mkdir()
    for part in range(3):
        lines = [json.dumps({"id": row_id, "text": f"text of {row_id}"}) for row_id in IDS[part::3]]
        (tmp_path / "in" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    common = {"engine": "simulated", "resources": {"cpus": 0.5}, "batchSize": 8}
    stages = [
        {"name": "one", "prompt": {"user": "{{ text }}"}, "simulation": {"secondsPerRow": 0.03}, **common},
        {"name": "two", "prompt": {"user": "{{ one }}"}, **common},
    ]
    document = job(tmp_path, stages=stages, output={"uri": f"{tmp_path}/out"}).to_wire()
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def kill_one(chosen: Callable[[list[str]], bool]) -> Callable[[int, dict[str, Any]], bool]:
    """Return a reaction that kills the first process whose command line is `chosen`, once a shard is committed."""

    def react(leader: int, progress: dict[str, Any]) -> bool:
        if progress["shardsCommitted"] == 0:
            return False
        for pid in session(leader):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if chosen(Path(f"/proc/{pid}/cmdline").read_text().split("\0")):
                    os.kill(pid, signal.SIGKILL)
                    return True
        raise AssertionError("there is no such process")

    return react


def test_a_killed_replica_loses_and_doubles_nothing(slow_job: Path, tmp_path: Path) -> None:
    replica = kill_one(lambda words: words[0].startswith("ray::MapWorker"))
    code, last = watch(slow_job, tmp_path / "out", replica)
    assert (code, last["result"]["state"]) == (0, "complete")
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)


def test_a_killed_node_loses_and_doubles_nothing(slow_job: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_seconds,nodes\n0,2\n")
    node = kill_one(lambda words: words[0].endswith("/raylet") and "--head" not in words)
    code, last = watch(slow_job, tmp_path / "out", node, "--capacity", str(trace))
    assert (code, last["result"]["state"]) == (0, "complete")
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)


def test_two_drivers_at_once_share_one_output(slow_job: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: run(slow_job, tmp_path / "out"), range(2)))
    assert [(code, last["result"]["state"]) for code, last in ends] == [(0, "complete")] * 2
    assert ends[0][1]["result"]["final"] == ends[1][1]["result"]["final"]
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)
