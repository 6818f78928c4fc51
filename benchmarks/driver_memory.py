"""Memory of the driver of `llmbatch run` by the number of rows: the most it took, and the slope in bytes a row.

    python benchmarks/driver_memory.py --rows 100000 --rows 300000 --rows 1000000

A thread of the driver keeps 8 bytes a row to find repeated ids (`input.uniqueIds: check`, the default); `--trust`
leaves that out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import overhead

SHARD_ROWS = 10_000


def most_megabytes(rows: int, *, trust: bool, seed: int) -> float:
    """Run a job of so many rows, and return the most memory of its driver: high-water mark of the resident set."""
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        overhead.write_input(folder, rows, seed)
        command = overhead.ours(folder, SHARD_ROWS)
        if trust:
            path = folder / "job.yaml"
            document = yaml.safe_load(path.read_text())
            document["spec"]["input"]["uniqueIds"] = "trust"
            path.write_text(yaml.safe_dump(document))
        most = 0
        last: dict[str, Any] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = json.loads(line)
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max(most, int(status.partition("VmHWM:")[2].split()[0]))
        done = last["progress"]["rows"]["rowsCompleted"]
        if process.returncode != 0 or done != rows:
            raise SystemExit(f"{done} of {rows} rows, exit code {process.returncode}")
        return most / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", required=True, help="repeat it for a slope")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| rows | driver, MB |\n|---|---|")
    found = []
    for rows in options.rows:
        found.append(most_megabytes(rows, trust=options.trust, seed=options.seed))
        print(f"| {rows:,} | {found[-1]:.0f} |", flush=True)
    if len(found) > 1:
        slope, _ = np.polyfit(options.rows, found, 1)
        print(f"slope: {slope * 2**20:.1f} bytes a row")


if __name__ == "__main__":
    main()
