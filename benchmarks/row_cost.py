"""What a row costs llmbatch itself, without Ray: microseconds of one core to read, to pass a stage, to commit.

    python benchmarks/row_cost.py --rows 20000 --seeds 3 --shard-rows 256 --shard-rows 10000

The baseline, in the same run, is the bare pipeline of `overhead.py`: what reads, stages and writes do in its workers.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pyarrow import json
from ray.data.block import BlockAccessor

import overhead
from llmbatch.api.job import LLMBatchJob
from llmbatch.api.runspec import run_spec
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.prompts import needed_fields
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.shards import plan_splits
from llmbatch.runtime.stages import Replica


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = act()
    return time.process_time() - started, result


def ours(folder: Path, shard_rows: int) -> dict[str, float]:
    """Take all rows through two stages and into the output; return the seconds of each step."""
    job = LLMBatchJob.model_validate(yaml.safe_load(overhead.job(folder, shard_rows).read_text()))
    spec, run = job.spec, run_spec(job)
    ledger = Ledger.open(spec.output, run.spec_hash, run.job)
    splits = plan_splits(list_files(spec.input), spec.input, [])
    seconds: dict[str, float] = {}

    def read() -> list[Any]:
        keep = needed_fields(spec)
        return [shard for split in splits for shard in read_split_tables(split, spec.input, shard_rows, keep)]

    seconds["read"], shards = timed(read)
    for stage in spec.stages:
        replica = Replica(stage)
        seconds[f"stage {stage.name}"], shards = timed(
            lambda: [(key, replica(table)) for key, table in shards]  # noqa: B023
        )
    seconds["commit"], _ = timed(lambda: [write_shard(ledger, spec, key, table) for key, table in shards])
    return seconds


def bare(folder: Path) -> dict[str, float]:
    """Do the same as Ray Data does it for the bare pipeline."""
    seconds: dict[str, float] = {}
    seconds["read"], blocks = timed(lambda: [json.read_json(file) for file in sorted((folder / "in").iterdir())])
    for read, write in (("text", "one"), ("one", "two")):
        replica = overhead.Bare(read, write)

        def on_arrow(batch: pa.Table) -> pa.Table:
            return BlockAccessor.batch_to_block(replica(BlockAccessor.for_block(batch).to_numpy()))  # noqa: B023

        seconds[f"stage {write}"], blocks = timed(lambda: [in_batches(on_arrow, block) for block in blocks])  # noqa: B023
    seconds["commit"], _ = timed(lambda: [pq.write_table(block, io.BytesIO()) for block in blocks])
    return seconds


def in_batches(act: Callable[[pa.Table], pa.Table], block: pa.Table) -> pa.Table:
    return pa.concat_tables([act(block[at : at + overhead.BATCH]) for at in range(0, len(block), overhead.BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, action="append", help="256 if left out; may be repeated")
    options = parser.parse_args()
    pipelines = {f"shardRows {size}": partial(ours, shard_rows=size) for size in options.shard_rows or [256]}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ["bare", *pipelines]}
    for seed in range(-1, options.seeds):
        for name, pipeline in {"bare": bare, **pipelines}.items():
            with tempfile.TemporaryDirectory(prefix="row-cost-") as folder:
                overhead.write_input(Path(folder), options.rows, seed)
                measured = pipeline(Path(folder))
            if seed < 0:
                continue  # the first pass pays for the imports
            for step, seconds in measured.items():
                found[name].setdefault(step, []).append(seconds / options.rows * 1e6)
            found[name].setdefault("all", []).append(sum(measured.values()) / options.rows * 1e6)
    print("microseconds of a core a row, mean and most\n")
    print(f"| pipeline | {' | '.join(found['bare'])} |\n|---|{'---|' * len(found['bare'])}")
    for name, steps in found.items():
        cells = [f"{statistics.mean(values):.1f} ({max(values):.1f})" for values in steps.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
