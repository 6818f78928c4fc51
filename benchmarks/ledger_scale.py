"""What a resume and a finalize cost with many committed shards, on a local folder.

    python benchmarks/ledger_scale.py --shards 100000 --seeds 3

Prints, per seed: seconds to LIST the commits and plan what is left, to read all commits, and to finalize; the
peak memory of each; and the ratio to a baseline in the same run (for the plan: the same with no commits; for
the reads: one plain `open().read()` after another; for the id check: a Python set of the ids).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.idindex import IdIndex, decode_hashes, encode_hashes, hash_id
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.records import Commit, Manifest
from llmbatch.runtime.shards import SPLIT_BYTES, InputFile, ShardKey, plan_splits

ROWS = 256
SHARDS_PER_FILE = 100
SPEC_HASH = "0123456789abcdef"


def spec_at(uri: str) -> LLMBatchJobSpec:
    """A job with ids of its own, so that its commits carry hashes: the larger kind."""
    return LLMBatchJobSpec.model_validate(
        {
            "input": {"uri": "in/*.csv", "format": "csv", "idField": "id"},
            "stages": [{"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}}],
            "output": {"uri": uri, "format": "jsonl"},
        }
    )


def keys_of(shards: int) -> list[ShardKey]:
    return [
        ShardKey(
            file=number // SHARDS_PER_FILE,
            split=0,
            seq=number % SHARDS_PER_FILE,
            end=(number % SHARDS_PER_FILE + 1) * ROWS,
            rows=ROWS,
            last=number % SHARDS_PER_FILE == SHARDS_PER_FILE - 1 or number == shards - 1,
        )
        for number in range(shards)
    ]


def manifest_of(shards: int) -> Manifest:
    count = -(-shards // SHARDS_PER_FILE)
    files = tuple(InputFile(n, f"{n}.csv", f"in/{n}.csv", 1 << 20, f"etag{n}") for n in range(count))
    return Manifest(SPEC_HASH, ROWS, SPLIT_BYTES, files)


def fill(root: Path, shards: int, seed: int) -> Ledger:
    """Write the commits and their (tiny) parts as files, as obstore leaves them."""
    spec = spec_at(str(root))
    ledger = Ledger.open(spec.output, SPEC_HASH, "bench/ledger")
    ledger.create_manifest(manifest_of(shards))
    for prefix in (ledger.commits_prefix, ledger.data_prefix):
        (root / prefix).mkdir(parents=True)
    draw = random.Random(seed)
    for key in keys_of(shards):
        data = ledger.data_prefix + f"{key}-{draw.randbytes(16).hex()}.jsonl"
        first = draw.getrandbits(60)
        record = Commit(
            shard=str(key),
            attempt=data[-38:-6],
            data=data,
            size=1,
            sha256=hashlib.sha256(b"1").hexdigest(),
            rows=ROWS,
            prompt_tokens=ROWS * 100,
            completion_tokens=ROWS * 30,
            id_hashes=encode_hashes(f"doc-{first + row}" for row in range(ROWS)),
            worker="0123456789ab",
        )
        (root / data).write_bytes(b"1")
        (root / ledger.commits_prefix / str(key)).write_text(json.dumps(record.to_wire()))
    return ledger


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(what: str, root: Path, shards: int) -> dict[str, float]:
    """One measurement in a fresh process: {seconds, megabytes, items}."""
    command = [sys.executable, __file__, "--measure", what, "--root", str(root), "--shards", str(shards)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(what: str, root: Path, shards: int) -> None:
    spec = spec_at(str(root))
    ledger = Ledger.open(spec.output, SPEC_HASH, "bench/ledger")
    manifest = ledger.read_manifest()
    assert manifest is not None
    before = peak_mb()
    acts: dict[str, Callable[[], int]] = {
        "plan": lambda: len(list(plan_splits(manifest.files, spec.input, sorted(ledger.committed())))),
        "empty plan": lambda: len(list(plan_splits(manifest.files, spec.input, []))),
        "read": lambda: sum(commit.rows for commit in ledger.load_commits(keys_of(shards))),
        "plain read": lambda: sum(
            Commit.model_validate_json((root / ledger.commits_prefix / str(key)).read_bytes()).rows
            for key in keys_of(shards)
        ),
        "ids": lambda: index_all(ledger, shards),
        "id set": lambda: id_set(shards),
        "finalize": lambda: finalize(ledger, manifest, spec, datetime.now(UTC)).rows,
    }
    seconds, items = timed(acts[what])
    print(json.dumps({"seconds": seconds, "megabytes": peak_mb() - before, "items": items}))


def index_all(ledger: Ledger, shards: int) -> int:
    index = IdIndex()
    for commit in ledger.load_commits(keys_of(shards)):
        assert len(index.add(commit.shard, decode_hashes(commit.id_hashes))) == 0
    assert len(index.flush()) == 0
    return len(index)


def id_set(shards: int) -> int:
    """The obvious check: a set of ids (as 64-bit integers, so the cheapest set there is)."""
    seen: set[int] = set()
    for number in range(shards):
        seen.update(hash_id(f"doc-{number}-{row}") for row in range(ROWS))
    return len(seen)


BASELINES = {"plan": "empty plan", "read": "plain read", "ids": "id set"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--measure", default="")
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    if options.measure:
        child(options.measure, options.root, options.shards)
        return
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        root = Path(tempfile.mkdtemp(prefix="ledger-"))
        try:
            fill(root, options.shards, seed)
            for what in ("plan", "empty plan", "read", "plain read", "ids", "id set", "finalize"):
                results.setdefault(what, []).append(measure(what, root, options.shards))
        finally:
            shutil.rmtree(root)
    report(results, options.shards)


def report(results: dict[str, list[dict[str, float]]], shards: int) -> None:
    print(f"{shards} committed shards of {ROWS} rows, local folder, {len(results['plan'])} seeds")
    for what, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        line = f"{what:>10}: {statistics.mean(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        line += f", {statistics.mean(run['megabytes'] for run in runs):6.0f} MB more than before"
        if what in BASELINES:
            base = results[BASELINES[what]]
            ratio = statistics.mean(a["seconds"] / b["seconds"] for a, b in zip(runs, base, strict=True))
            line += f", {ratio:.2f} x the time of {BASELINES[what]}"
        print(line)


if __name__ == "__main__":
    main()
