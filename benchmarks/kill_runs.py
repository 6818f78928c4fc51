"""Exactly once under kill -9: drivers, workers and raylets are killed at random moments, and every row is counted.

    python benchmarks/kill_runs.py --runs 30 --seed 0 --raw kills.jsonl

Each run is one small job over real input through `llmbatch run`, on an embedded Ray of a head and two nodes. While
it goes on, processes are killed with SIGKILL at random moments: a driver, a worker of Ray's (a replica, a read, a
commit), or a raylet, which takes its node along. A killed driver is started again; in every second run two drivers
work on the same output from the beginning. A run ends when a driver has reported the job complete; then all ids of
the output are compared with those of the input.

Prints one line a run (seed, drivers, kills, starts of drivers, rows, lost, twice) and the sums. Exit code 1 if a row
was lost or twice. With `--raw` each run is added to a file, and the sums are of all runs in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import yaml

import sessions

ROWS = 600
SHARD_ROWS = 20
NODES = 2
SECONDS_PER_ROW = 0.02
"""Makes a job of some ten seconds, process start not included."""
PAUSE_SECONDS = (1.0, 6.0)
"""Between one kill and the next, drawn evenly."""
MOST_KILLS = 4
LONGEST_SECONDS = 300.0
VICTIMS = ("driver", "worker", "raylet")


def write_job(folder: Path) -> list[str]:
    """Write the input and the job, and return the ids."""
    (folder / "in").mkdir()
    ids = [f"row-{number}" for number in range(ROWS)]
    for part in range(4):
        lines = [json.dumps({"id": row_id, "text": f"text of {row_id}"}) for row_id in ids[part::4]]
        (folder / "in" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    common = {"engine": "simulated", "resources": {"cpus": 0.5}, "batchSize": 10}
    simulation = {"secondsPerRow": SECONDS_PER_ROW}
    pool = {"replicas": {"min": 1, "max": 2}}
    spec = {
        "input": {"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": [
            {"name": "one", "prompt": {"user": "Say: {{ text }}"}, "simulation": simulation, **pool, **common},
            {"name": "two", "prompt": {"user": "Judge: {{ one }}"}, **common},
        ],
        "output": {"uri": f"{folder}/out"},
        "shardRows": SHARD_ROWS,
    }
    kind = {"apiVersion": "llmbatch.dev/v1alpha1", "kind": "LLMBatchJob", "metadata": {"name": "kill"}}
    (folder / "job.yaml").write_text(yaml.safe_dump({**kind, "spec": spec}))
    (folder / "trace.csv").write_text(f"time_seconds,nodes\n0,{NODES}\n")
    return ids


class Driver:
    """One `llmbatch run` in a session of its own, which its Ray lives in."""

    def __init__(self, folder: Path, number: int) -> None:
        self._log = (folder / f"driver-{number}.log").open("w")
        program = str(Path(sys.executable).parent / "llmbatch")
        command = [program, "run", "job.yaml", "--object-store-mb", "100", "--capacity", "trace.csv"]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Ray lets its workers give way to whatever else runs: a run would take as long as that.
            env=os.environ | {"RAY_worker_niceness": "0"},
        )

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def victims(self, kind: str) -> list[int]:
        """Return the processes of a kind."""
        if kind == "driver":
            return [self._process.pid]
        return [pid for pid in sessions.members(self._process.pid) if is_kind(pid, kind)]

    def end(self) -> None:
        """End whatever is left of the session."""
        sessions.end(self._process.pid)
        self._process.wait()
        self._log.close()


def is_kind(pid: int, kind: str) -> bool:
    """Tell whether a process is a raylet, or a worker that has a task or a replica."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        if kind == "raylet":
            return words.endswith(b"/raylet")
        return words.startswith(b"ray::") and not words.startswith(b"ray::IDLE")
    return False


@dataclass
class Outcome:
    """What came of one run."""

    seed: int
    drivers: int
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    gave_up: int = 0
    """Drivers that ended by themselves with an error; another attempt must be able to end the job."""
    seconds: float = 0.0
    lost: int = 0
    twice: int = 0
    rows: int = 0


def one_run(folder: Path, seed: int) -> Outcome:
    """Run a job to its end through kills, and compare its output with its input."""
    ids = write_job(folder)
    draw, drivers = random.Random(seed), 1 + seed % 2
    outcome = Outcome(seed, drivers)
    started = time.monotonic()
    alive: list[Driver] = []
    next_kill = started + draw.uniform(*PAUSE_SECONDS)
    try:
        while True:
            codes = [driver.code for driver in alive]
            if 0 in codes:
                break
            outcome.gave_up += sum(code is not None and code > 0 for code in codes)
            for driver in [driver for driver, code in zip(alive, codes, strict=True) if code is not None]:
                driver.end()
                alive.remove(driver)
            while len(alive) < drivers:
                alive.append(Driver(folder, outcome.starts))
                outcome.starts += 1
            now = time.monotonic()
            if now - started > LONGEST_SECONDS:
                raise SystemExit(f"not complete after {LONGEST_SECONDS:.0f} s, see {folder}")
            if now >= next_kill and outcome.kills.total() < MOST_KILLS and begun(folder):
                kill_one(draw, alive, outcome)
                next_kill = time.monotonic() + draw.uniform(*PAUSE_SECONDS)
            time.sleep(0.1)
    finally:
        for driver in alive:
            driver.end()
    outcome.seconds = time.monotonic() - started
    found = Counter(rows_of(folder / "out"))
    outcome.rows = found.total()
    outcome.lost = len(set(ids) - set(found))
    outcome.twice = sum(found[row_id] > 1 for row_id in found)
    return outcome


def begun(folder: Path) -> bool:
    """Whether a part was written: a kill during start-up tries Ray, not the ledger."""
    return any(folder.glob("out/data/*/*"))


def kill_one(draw: random.Random, drivers: list[Driver], outcome: Outcome) -> None:
    kind = draw.choice(VICTIMS)
    victims = sorted(pid for driver in drivers for pid in driver.victims(kind))
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(victims), signal.SIGKILL)
            outcome.kills[kind] += 1


def rows_of(output: Path) -> list[str]:
    """Return the ids in the parts that count."""
    final = json.loads((output / "_FINAL").read_text())
    parts = pq.read_table(output / final["winners"]["key"]).column("data").to_pylist()
    return [row_id for part in parts for row_id in pq.read_table(output / part).column("id").to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--raw", type=Path, help="add the runs to this file")
    options = parser.parse_args()
    # An end of this process ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runs = earlier(options.raw)
    print("| seed | drivers | killed | starts | gave up | seconds | rows | lost | twice | load average |")
    print("|---|" + "---|" * 9)
    for seed in range(options.seed, options.seed + options.runs):
        with tempfile.TemporaryDirectory(prefix="kill-runs-") as folder:
            run = one_run(Path(folder), seed)
        runs.append(run)
        if options.raw is not None:
            with options.raw.open("a") as file:
                file.write(json.dumps(vars(run)) + "\n")
        print(
            f"| {seed} | {run.drivers} | {in_words(run.kills)} | {run.starts} | {run.gave_up} | {run.seconds:.0f} "
            f"| {run.rows} of {ROWS} | {run.lost} | {run.twice} | {os.getloadavg()[1]:.0f} |",
            flush=True,
        )
    kills = sum((run.kills for run in runs), Counter())
    rows, lost, twice = (sum(getattr(run, name) for run in runs) for name in ("rows", "lost", "twice"))
    print(f"{len(runs)} runs, killed: {in_words(kills)}; {rows} rows, {lost} lost, {twice} twice")
    sys.exit(1 if lost or twice else 0)


def earlier(raw: Path | None) -> list[Outcome]:
    """Return the runs that a file has."""
    lines = raw.read_text().splitlines() if raw is not None and raw.exists() else []
    return [Outcome(**fields | {"kills": Counter(fields["kills"])}) for fields in map(json.loads, lines)]


def in_words(kills: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items())) or "none"


if __name__ == "__main__":
    main()
