"""A pause as the controller asks for it: what is in flight is finished, nothing else is begun, and a resume goes on."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import job
from llmbatch.runtime.driver import DRAIN_SECONDS
from runkit import commits, rows_of, run, watch

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IDS = [f"row-{number}" for number in range(180)]
SHARD = 10
WITH_SIGNALS = """
import signal
from llmbatch.runtime import driver
from llmbatch.runtime.desired import Desired

desired = Desired()
driver.Desired = lambda: desired

def tell(pause):
    latest = desired.latest()
    desired.offer(latest.model_copy(update={"sequence": latest.sequence + 1, "pause": pause}))

signal.signal(signal.SIGUSR1, lambda *_: tell(True))
signal.signal(signal.SIGUSR2, lambda *_: tell(False))
from llmbatch.cli.main import app
app()
"""
"""llmbatch that a signal tells to pause, and another one to go on, in place of a controller."""
PROGRAM = (sys.executable, "-c", WITH_SIGNALS)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Two chained stages on GPUs: one takes 3 s for a shard, the other 2 s."""
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"id": row_id, "text": f"text of {row_id}"}) for row_id in IDS]
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(lines) + "\n")

    def stage(name: str, of: str, seconds: float) -> dict[str, Any]:
        return {
            "name": name,
            "engine": "simulated",
            "prompt": {"user": f"{{{{ {of} }}}}"},
            "replicas": {"min": 1, "max": 4},
            "resources": {"gpus": 1, "cpus": 0.1},
            "batchSize": 5,
            "simulation": {"secondsPerRow": seconds / SHARD, "loadSeconds": 0.5},
        }

    stages = [stage("one", "text", 3.0), stage("two", "one", 2.0)]
    document = job(tmp_path, stages=stages, shardRows=SHARD).to_wire()
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Seen:
    """Progress over time, and when the run was told to pause."""

    def __init__(self, when: Callable[[dict[str, Any]], bool], resume_after: int | None = None) -> None:
        self.before: list[dict[str, Any]] = []
        self.after: list[dict[str, Any]] = []
        self._when = when
        self._resume_after = resume_after

    def react(self, pid: int, progress: dict[str, Any]) -> bool:
        if self.after or (self.before and self._when(progress)):
            self.after.append(progress)
        else:
            self.before.append(progress)
        if len(self.after) == 1:
            os.kill(pid, signal.SIGUSR1)
        if len(self.after) == self._resume_after:
            os.kill(pid, signal.SIGUSR2)
        return False


def begun(progress: dict[str, Any]) -> int:
    """Return the rows that replicas of the first stage were given."""
    return int(progress["pools"][0]["rowsCompleted"] + progress["pools"][0]["inFlightRows"])


def trace(folder: Path, text: str) -> tuple[str, str]:
    (folder / "trace.csv").write_text(f"time_seconds,nodes\n{text}")
    return "--capacity", str(folder / "trace.csv")


def test_a_pause_finishes_what_is_in_flight_and_a_resume_does_the_rest(chain: Path, tmp_path: Path) -> None:
    capacity = trace(tmp_path, "0,a;b;c\n900,a;b;c\n")
    seen = Seen(lambda progress: progress["shardsCommitted"] >= 3)
    _, last = watch(chain, tmp_path / "out", seen.react, *capacity, program=PROGRAM)
    assert (last["result"]["state"], last["progress"]["state"]) == ("stopped", "paused")
    paused, end = seen.after[0], last["progress"]
    assert len(commits(tmp_path / "out")) * SHARD == end["rows"]["rowsCompleted"] == begun(end)
    # Nothing is begun once the arbiter holds the first stage; figures may be older than its decision by one step.
    held = next(index for index, progress in enumerate(seen.after) if progress["pools"][0]["target"] == 0)
    assert begun(seen.after[held + 1]) == begun(end) < len(IDS)
    assert begun(paused) <= begun(end)
    assert paused["rows"]["rowsCompleted"] < end["rows"]["rowsCompleted"]
    assert end["pools"][0]["ready"] == end["pools"][0]["inFlightRows"] == 0

    _, last = run(chain, tmp_path / "out", *capacity)
    assert last["result"]["state"] == "complete"
    assert last["progress"]["shardsSkipped"] * SHARD == end["rows"]["rowsCompleted"]
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)


def test_a_pause_that_is_taken_back_holds_nothing_up(chain: Path, tmp_path: Path) -> None:
    capacity = trace(tmp_path, "0,a;b;c\n900,a;b;c\n")
    seen = Seen(lambda progress: progress["shardsCommitted"] >= 3, resume_after=4)
    code, last = watch(chain, tmp_path / "out", seen.react, *capacity, program=PROGRAM)
    assert (code, last["result"]["state"]) == (0, "complete")
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)


def test_a_pause_does_not_wait_for_gpus_that_are_gone(chain: Path, tmp_path: Path) -> None:
    capacity = trace(tmp_path, "0,a;b;c\n20,\n900,a\n")
    seen = Seen(lambda progress: progress["gpus"] == 0 < progress["pools"][0]["rowsCompleted"])
    _, last = watch(chain, tmp_path / "out", seen.react, *capacity, program=PROGRAM)
    end = last["progress"]
    assert end["state"] == "paused"
    assert end["pools"][0]["rowsCompleted"] > end["rows"]["rowsCompleted"], "rows wait for the second stage"
    assert end["elapsedSeconds"] - seen.after[0]["elapsedSeconds"] < DRAIN_SECONDS / 2
