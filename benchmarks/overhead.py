"""Rows a second of `llmbatch run` with a simulated engine that takes no time, against the same pipeline bare.

    python benchmarks/overhead.py --rows 1000000 --seeds 3 --shard-rows 256 --shard-rows 10000

The bare pipeline is what one would write with Ray Data alone: read_json, two map_batches with an actor pool of one,
write_parquet. Both read the same files with the same Ray, one after the other in turns, each in a process of its own.
Two times are compared, both with the import and the start of Ray: of the run, and of the whole process. A shard is
committed with three requests and passes every stage as a task of its own: `--shard-rows` shows what its size costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

FILES = 8
BATCH = 256
STORE_BYTES = 300_000_000


def write_input(folder: Path, rows: int, seed: int) -> None:
    draw = random.Random(seed)
    words = [f"w{draw.getrandbits(20)}" for _ in range(1000)]
    (folder / "in").mkdir()
    for number in range(FILES):
        with (folder / "in" / f"{number}.jsonl").open("w") as file:
            for row in range(number, rows, FILES):
                file.write(json.dumps({"id": f"r{row}", "text": " ".join(draw.choices(words, k=12))}) + "\n")


def job(folder: Path, shard_rows: int) -> Path:
    common = {"engine": "simulated", "resources": {"cpus": 0.5}, "batchSize": BATCH}
    stages = [
        {"name": "one", "prompt": {"user": "Say: {{ text }}"}, **common},
        {"name": "two", "prompt": {"user": "Judge: {{ one }}"}, **common},
    ]
    spec = {
        "input": {"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": stages,
        "output": {"uri": f"{folder}/ours-{shard_rows}"},
        "shardRows": shard_rows,
    }
    path = folder / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "llmbatch.dev/v1alpha1",
                "kind": "LLMBatchJob",
                "metadata": {"name": "overhead"},
                "spec": spec,
            }
        )
    )
    return path


class Bare:
    """A stage that hashes a text, as the simulated engine does, and nothing else."""

    def __init__(self, read: str, write: str) -> None:
        self.read, self.write = read, write

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch[self.write] = [hashlib.sha256(text.encode()).hexdigest() for text in batch[self.read]]
        return batch


def bare(folder: Path) -> None:
    """Run the bare pipeline, and print the seconds it took, Ray's start included."""
    started = time.monotonic()
    import ray

    ray.init(num_cpus=4, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_json(f"{folder}/in")
    for read, write in (("text", "one"), ("one", "two")):
        rows = rows.map_batches(
            Bare,
            fn_constructor_args=(read, write),
            batch_size=BATCH,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
    rows.write_parquet(f"{folder}/bare")
    print(json.dumps({"seconds": time.monotonic() - started}))


def timed(command: list[str]) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a process and the last line it printed."""
    started = time.monotonic()
    # Ray lets its workers give way to whatever else runs: they would measure that.
    env = os.environ | {"RAY_worker_niceness": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    return time.monotonic() - started, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, action="append", help="256 if left out; may be repeated")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare is not None:
        bare(options.bare)
        return
    ratios: dict[int, list[float]] = {}
    print("| seed | shardRows | llmbatch, rows/s | bare, rows/s | ratio | ratio of the processes |")
    print("|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="overhead-") as name:
            folder = Path(name)
            write_input(folder, options.rows, seed)
            bare_whole, printed = timed([sys.executable, __file__, "--bare", str(folder)])
            for shard_rows in options.shard_rows or [256]:
                whole, last = timed(ours(folder, shard_rows))
                if last["progress"]["rows"]["rowsCompleted"] != options.rows:
                    raise SystemExit(f"{last['progress']['rows']} instead of {options.rows} rows")
                seconds, base = last["progress"]["elapsedSeconds"], printed["seconds"]
                ratios.setdefault(shard_rows, []).append(base / seconds)
                print(
                    f"| {seed} | {shard_rows} | {options.rows / seconds:,.0f} | {options.rows / base:,.0f} "
                    f"| {base / seconds:.2f} | {bare_whole / whole:.2f} |",
                    flush=True,
                )
    for shard_rows, found in ratios.items():
        print(f"shardRows {shard_rows}: mean ratio {statistics.mean(found):.2f}, least {min(found):.2f}")


def ours(folder: Path, shard_rows: int) -> list[str]:
    program = str(Path(sys.executable).parent / "llmbatch")
    store = ["--object-store-mb", str(STORE_BYTES // 1_000_000), "--cpus", "4"]
    return [program, "run", str(job(folder, shard_rows)), "--json", *store]


if __name__ == "__main__":
    main()
