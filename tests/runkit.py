"""`llmbatch run` as a user runs it: a process of its own, which tests stop, kill and read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]


LLMBATCH = (str(Path(sys.executable).parent / "llmbatch"),)


def command(job: Path, output: Path, *more: str, program: Sequence[str] = LLMBATCH) -> list[str]:
    """Return the command line of a run with a small object store."""
    return [*program, "run", str(job), "--output", str(output), "--json", "--object-store-mb", "150", *more]


def run(job: Path, output: Path, *more: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Run a job to its end and return the exit code and the last line it printed."""
    return watch(job, output, lambda _pid, _progress: False, *more, env=env)


def watch(
    job: Path,
    output: Path,
    react: Callable[[int, dict[str, Any]], bool],
    *more: str,
    env: dict[str, str] | None = None,
    program: Sequence[str] = LLMBATCH,
) -> tuple[int, dict[str, Any]]:
    """Run a job, show each progress to `react(pid, progress)` until it is true, and return code and last line.

    What a killed driver leaves behind is its session, which is ended.
    """
    last: dict[str, Any] = {}
    reacted = False
    with subprocess.Popen(
        command(job, output, *more, program=program),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | (env or {}),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # Ray's core may write a line of its own in between.
            for line in (line for line in process.stdout if line.startswith("{")):
                last = json.loads(line)
                if not reacted and "result" not in last:
                    reacted = react(process.pid, last["progress"])
            errors = process.stderr.read()
            code = process.wait()
        finally:
            for pid in session(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert last, errors
    return code, last


def session(leader: int) -> Iterator[int]:
    """Yield the processes of a session."""
    for entry in Path("/proc").iterdir():
        # A process may end by itself while it is looked at.
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                yield int(entry.name)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the rows of the parts that count, Parquet or JSON lines, by `_FINAL`."""
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


def commits(output: Path) -> dict[str, bytes]:
    """Return the commits by their names."""
    return {path.name: path.read_bytes() for path in output.glob("_ledger/*/commits/*") if "#" not in path.name}
