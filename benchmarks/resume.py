"""What 10^5 committed shards cost at the start of a run: seconds to the first new row, and bytes read.

    python benchmarks/resume.py --shards 100000 --seeds 3 --folder /tmp/resume --prepare
    python benchmarks/resume.py --shards 100000 --seeds 3 --folder /tmp/resume

The same input is begun twice, each time with `llmbatch run` until its first new shard is committed: with an empty
output, and with an output where all but the last tenth of every file is committed. The bytes are counted by cutting
what is left with the same readers, and set beside the bytes of the rows that are left. `--prepare` writes inputs and
commits, which takes longer than what is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

import sessions
from llmbatch.api.job import LLMBatchJob
from llmbatch.api.runspec import run_spec
from llmbatch.runtime.idindex import encode_hashes
from llmbatch.runtime.ledger import Commit, Ledger, Manifest
from llmbatch.runtime.readers.listing import list_files
from llmbatch.runtime.readers.objects import ObjectFile
from llmbatch.runtime.readers.shards import read_split_tables
from llmbatch.runtime.shards import SPLIT_BYTES, plan_splits

FILES = 100
SHARD_ROWS = 4
LEFT = 10
"""One shard in so many is left to do, at the end of each file."""


def write_job(folder: Path, shards: int, seed: int) -> LLMBatchJob:
    """Write an input of `shards` shards to commit and a `LEFT`th more, and return its job."""
    (folder / "in").mkdir()
    per_file = shards // FILES * SHARD_ROWS * LEFT // (LEFT - 1)
    for number in range(FILES):
        with (folder / "in" / f"{number:03d}.jsonl").open("w") as file:
            for row in range(per_file):
                text = hashlib.sha256(f"{seed}/{number}/{row}".encode()).hexdigest()
                file.write(json.dumps({"id": f"{number}-{row}", "text": text}) + "\n")
    stage = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"cpus": 0.5}}
    document = {
        "apiVersion": "llmbatch.dev/v1alpha1",
        "kind": "LLMBatchJob",
        "metadata": {"name": "resume"},
        "spec": {
            "input": {"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id"},
            "stages": [stage],
            "output": {"uri": f"{folder}/out", "format": "jsonl"},
            "shardRows": SHARD_ROWS,
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    return LLMBatchJob.model_validate(document)


def commit_most(folder: Path, job: LLMBatchJob, shards: int) -> None:
    """Commit the first shards of every file, as a run would have."""
    spec = job.spec
    run = run_spec(job)
    files = list_files(spec.input)
    ledger = Ledger.open(spec.output, run.spec_hash, run.job, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    ledger.create_manifest(Manifest(run.spec_hash, spec.shard_rows, SPLIT_BYTES, tuple(files)))
    commits = folder / "out" / ledger.commits_prefix
    commits.mkdir(parents=True)
    for split in plan_splits(files, spec.input, []):
        for key, table in read_split_tables(split, spec.input, spec.shard_rows, frozenset()):
            if key.seq >= shards // FILES:
                break
            record = Commit(
                shard=str(key),
                attempt="0" * 32,
                data=f"{ledger.data_prefix}{key}-{'0' * 32}.jsonl",
                size=1,
                sha256="0" * 64,
                rows=key.rows,
                id_hashes=encode_hashes(table.column("id").to_pylist()),
                worker="0" * 12,
            )
            (commits / str(key)).write_text(json.dumps(record.to_wire()))


def bytes_of_what_is_left(job: LLMBatchJob) -> tuple[int, int]:
    """Return the bytes that reading what is left takes, and the bytes that its rows have."""
    spec = job.spec
    ledger = Ledger.find(spec.output)
    assert ledger is not None
    read = left = 0
    for split in plan_splits(list_files(spec.input), spec.input, ledger.committed()):
        raw = ObjectFile(split.file, spec.input)
        for _ in read_split_tables(split, spec.input, spec.shard_rows, frozenset(), raw=raw):
            pass
        read += raw.bytes_read
        left += split.file.size - max((key.end for key in split.committed), default=0)
    return read, left


def seconds_to_first_row(folder: Path, output: Path, committed: int) -> tuple[float, float]:
    """Start a run, end it at its first new shard, and return seconds and the megabytes the driver took at most."""
    program = str(Path(sys.executable).parent / "llmbatch")
    command = [program, "run", str(folder / "job.yaml"), "--output", str(output), "--json", "--object-store-mb", "150"]
    before = {path.name for path in output.glob("data/*/*")}
    started = time.monotonic()
    env = os.environ | {"RAY_worker_niceness": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["progress"]["shardsCommitted"] > committed or new_part(output, before):
                    return time.monotonic() - started, megabytes(process.pid, "VmHWM")
        finally:
            sessions.end(process.pid)
    raise SystemExit("the run ended without a new row")


def new_part(output: Path, before: set[str]) -> bool:
    return any(path.name not in before for path in output.glob("data/*/*"))


def megabytes(pid: int, what: str) -> float:
    """Return a figure of a process's memory, such as VmHWM, its high-water mark."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    folders = [options.folder / str(seed) for seed in range(options.seeds)]
    if options.prepare:
        for seed, folder in enumerate(folders):
            folder.mkdir(parents=True)
            commit_most(folder, write_job(folder, options.shards, seed), options.shards)
        return
    print("| seed | committed | empty start, s | resume, s | more, s | bytes read | bytes left | driver, MB | load |")
    print("|---|" + "---|" * 8)
    more = []
    for seed, folder in enumerate(folders):
        job = LLMBatchJob.model_validate(yaml.safe_load((folder / "job.yaml").read_text()))
        committed = options.shards // FILES * FILES
        read, left = bytes_of_what_is_left(job)
        empty, _ = seconds_to_first_row(folder, folder / "empty", 0)
        resumed, megabytes = seconds_to_first_row(folder, folder / "out", committed)
        more.append(resumed - empty)
        print(
            f"| {seed} | {committed:,} | {empty:.1f} | {resumed:.1f} | {more[-1]:.1f} | {read:,} | {left:,} "
            f"| {megabytes:.0f} | {os.getloadavg()[0]:.0f} |",
            flush=True,
        )
    print(f"a resume starts {statistics.mean(more):.1f} s later, {max(more):.1f} s at most")


if __name__ == "__main__":
    main()
