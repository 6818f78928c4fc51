"""What a row costs llmbatch itself, without Ray: microseconds of one core to read, to pass a stage, to commit.

    python benchmarks/row_cost.py --rows 20000 --seeds 3

The baseline, in the same run, is what the bare pipeline of `overhead.py` does with a row in Python: hash it twice.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import overhead
from llmbatch.api.job import LLMBatchJob
from llmbatch.api.runspec import run_spec
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.prompts import needed_fields
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.rows import from_table
from llmbatch.runtime.shards import plan_splits
from llmbatch.runtime.stages import Replica

SHARD_ROWS = 256


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = act()
    return time.process_time() - started, result


def steps(folder: Path) -> dict[str, float]:
    """Take all rows through two stages and into the output; return the seconds of each step."""
    job = LLMBatchJob.model_validate(yaml.safe_load(overhead.job(folder, SHARD_ROWS).read_text()))
    spec, run = job.spec, run_spec(job)
    ledger = Ledger.open(spec.output, run.spec_hash, run.job)
    splits = plan_splits(list_files(spec.input), spec.input, [])
    seconds: dict[str, float] = {}

    def read() -> list[Any]:
        keep = needed_fields(spec)
        return [shard for split in splits for shard in read_split_tables(split, spec.input, SHARD_ROWS, keep)]

    seconds["read"], shards = timed(read)
    texts = [row.fields["text"] for _, table in shards for row in from_table(table)]
    for stage in spec.stages:
        replica = Replica(stage)
        seconds[f"stage {stage.name}"], shards = timed(lambda: [(key, replica(table)) for key, table in shards])  # noqa: B023
    seconds["commit"], _ = timed(lambda: [write_shard(ledger, spec, key, from_table(table)) for key, table in shards])
    bare = [overhead.Bare("text", "one"), overhead.Bare("one", "two")]
    seconds["bare"], _ = timed(lambda: bare[1](bare[0]({"text": texts})))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in range(-1, options.seeds):
        with tempfile.TemporaryDirectory(prefix="row-cost-") as folder:
            overhead.write_input(Path(folder), options.rows, seed)
            measured = steps(Path(folder))
        if seed < 0:
            continue  # the first pass pays for the imports
        for step, seconds in measured.items():
            found.setdefault(step, []).append(seconds / options.rows * 1e6)
    print("| step | microseconds a row, mean | least | most |\n|---|---|---|---|")
    for step, values in found.items():
        print(f"| {step} | {statistics.mean(values):.1f} | {min(values):.1f} | {max(values):.1f} |")
    ours = [sum(step) for step in zip(*(values for step, values in found.items() if step != "bare"), strict=True)]
    ratios = [one / bare for one, bare in zip(ours, found["bare"], strict=True)]
    print(f"all of it: {statistics.mean(ours):.1f} microseconds a row, {statistics.mean(ratios):.0f} x the bare one")


if __name__ == "__main__":
    main()
