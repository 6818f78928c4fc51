"""Memory of the driver of `llmbatch run` by the number of rows: the most it took, and its slope in bytes a row.

    python benchmarks/driver_memory.py --rows 100000 --rows 1000000 --rows 10000000 --folder /tmp/memory --prepare
    python benchmarks/driver_memory.py --rows 100000 --rows 1000000 --rows 10000000 --folder /tmp/memory

What counts is anonymous memory, which the kernel cannot take back, looked at twice a second. The high-water mark has
the pages of mapped files in it, such as those of the index that finds repeated ids (`input.uniqueIds: check`, the
default; `--trust` leaves that out). `--prepare` writes the inputs, which takes as long as the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import overhead
import resume

SHARD_ROWS = 10_000


def most_megabytes(folder: Path, rows: int, *, trust: bool) -> tuple[float, float, float]:
    """Run a job; return the most anonymous memory of its driver and its high-water mark, in MB, and the seconds."""
    command = overhead.ours(folder, SHARD_ROWS)
    shutil.rmtree(folder / f"ours-{SHARD_ROWS}", ignore_errors=True)
    if trust:
        path = folder / "job.yaml"
        document = yaml.safe_load(path.read_text())
        document["spec"]["input"]["uniqueIds"] = "trust"
        path.write_text(yaml.safe_dump(document))
    anonymous = high_water = 0.0
    last: dict[str, Any] = {}
    env = os.environ | {"RAY_worker_niceness": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            anonymous = max(anonymous, resume.megabytes(process.pid, "RssAnon"))
            high_water = resume.megabytes(process.pid, "VmHWM")
    done = last["progress"]["rows"]["rowsCompleted"]
    if process.returncode != 0 or done != rows:
        raise SystemExit(f"{done} of {rows} rows, exit code {process.returncode}")
    return anonymous, high_water, last["progress"]["elapsedSeconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", required=True, help="repeat it for a slope")
    parser.add_argument("--folder", type=Path, required=True, help="for the inputs, some 120 bytes a row")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--trust", action="store_true")
    options = parser.parse_args()
    folders = {rows: options.folder / str(rows) for rows in options.rows}
    if options.prepare:
        for rows, folder in folders.items():
            folder.mkdir(parents=True)
            overhead.write_input(folder, rows, 0)
        return
    print("| rows | anonymous, MB | high-water mark, MB | seconds |\n|---|---|---|---|")
    found = []
    for rows, folder in folders.items():
        anonymous, high_water, seconds = most_megabytes(folder, rows, trust=options.trust)
        found.append((anonymous, high_water))
        print(f"| {rows:,} | {anonymous:.0f} | {high_water:.0f} | {seconds:.0f} |", flush=True)
    if len(found) > 1:
        slopes = np.polyfit(options.rows, np.array(found), 1)[0] * 2**20
        print(f"slope: {slopes[0]:.1f} bytes a row of anonymous memory, {slopes[1]:.1f} of the high-water mark")


if __name__ == "__main__":
    main()
