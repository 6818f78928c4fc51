"""Rows a second of `llmbatch run` with a simulated engine that takes no time, against the same pipeline bare.

    python benchmarks/overhead.py --rows 1000000 --seeds 3 --shard-rows 256 --shard-rows 10000

The bare pipeline is what one would write with Ray Data alone: read_json, two map_batches with an actor pool of one,
write_parquet. Both read the same files with the same Ray, one after the other in turns, each in a process of its own.
Compared are the time of the run and that of the whole process, both with the import and the start of Ray, and the
processor time of all processes, which depends least on what else the machine does. A shard is committed with three
requests: `--shard-rows` shows what its size costs.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import sessions

FILES = 8
BATCH = 256
STORE_BYTES = 300_000_000
LOOK_SECONDS = 0.2


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

    ray.init(address="local", num_cpus=4, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False)
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


@dataclass(frozen=True)
class Measured:
    """What a process and its Ray took."""

    seconds: float
    processor_seconds: float
    last: dict[str, Any]
    """The last line it printed."""


def timed(command: list[str]) -> Measured:
    """Run a process in a session of its own."""
    started = time.monotonic()
    # Ray lets its workers give way to whatever else runs: they would measure that.
    env = os.environ | {"RAY_worker_niceness": "0"}
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=output, stderr=errors, env=env, start_new_session=True) as process,
    ):
        processor = sessions.Processor(process.pid)
        while process.poll() is None:
            processor.look()
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise SystemExit(errors.read()[-3000:])
        return Measured(seconds, processor.seconds, json.loads(output.read().splitlines()[-1]))


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
    found: dict[int, list[tuple[float, ...]]] = {}
    print("| seed | shardRows | llmbatch, rows/s | bare, rows/s | ratio | of processes | of processor time | load |")
    print("|---|" + "---|" * 7)
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="overhead-") as name:
            folder = Path(name)
            write_input(folder, options.rows, seed)
            base = timed([sys.executable, __file__, "--bare", str(folder)])
            for shard_rows in options.shard_rows or [256]:
                run = timed(ours(folder, shard_rows))
                progress = run.last["progress"]
                if progress["rows"]["rowsCompleted"] != options.rows:
                    raise SystemExit(f"{progress['rows']} instead of {options.rows} rows")
                pairs = (
                    (base.last["seconds"], progress["elapsedSeconds"]),
                    (base.seconds, run.seconds),
                    (base.processor_seconds, run.processor_seconds),
                )
                ratios = tuple(bare_one / our_one for bare_one, our_one in pairs)
                found.setdefault(shard_rows, []).append(ratios)
                rates = " | ".join(f"{options.rows / seconds:,.0f}" for seconds in reversed(pairs[0]))
                shares = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                print(f"| {seed} | {shard_rows} | {rates} | {shares} | {os.getloadavg()[0]:.0f} |", flush=True)
    for shard_rows, rows in found.items():
        means = ", ".join(f"{statistics.mean(column):.2f}" for column in zip(*rows, strict=True))
        print(f"shardRows {shard_rows}: mean ratios {means}")


def ours(folder: Path, shard_rows: int) -> list[str]:
    program = str(Path(sys.executable).parent / "llmbatch")
    store = ["--object-store-mb", str(STORE_BYTES // 1_000_000), "--cpus", "4"]
    return [program, "run", str(job(folder, shard_rows)), "--json", *store]


if __name__ == "__main__":
    main()
