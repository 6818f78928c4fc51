"""The real pipeline on real Ray, on nodes with logical GPUs that follow a trace: each policy's rows, and their ratio.

    python benchmarks/local_preemption.py --seeds 3 --policy balanced --policy stock

Every run is `llmbatch run --capacity` in a process of its own: three chained stages of the simulated engine (1 : 3 :
0.5 GPU-seconds a batch of 16 rows, 3 s of load, 1 to 8 replicas each). The seed decides which nodes are lost. Counted
are the rows committed until the trace ends, and those of each of its windows. The oracle is the linear program with the
service times of the job and, for all policies of a seed, the shortest mean load time that one of them measured, process
start included: Ray's own autoscaler lets actors wait for a GPU, and that is no load.

Beside each run stands the same case in the simulator, with delays that are measured: how long the process of a replica
takes where no other starts, before the first run, and in the run itself how long it took until the first replica was
started, until nodes that came were there, and until the loss of a node was noticed. The second table says where the
GPU-seconds of the trace went: to replicas with work, that start, and without work, to GPUs without a replica, and to
those that the trace has and Ray has not yet.

`--ray NAME=VALUE` sets a variable of Ray's for the stock policy, such as RAY_DATA_OP_RESERVATION_RATIO=0.2.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmbatch.core.capacity.trace import Trace
from llmbatch.core.stages.delays import Delays
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.embedded import LocalCapacity, RunOptions, embedded_ray, most_starting
from llmbatch.simulator.oracle import OracleStage, most_rows
from llmbatch.simulator.study import POLICIES
from llmbatch.simulator.trace import read_trace
from llmbatch.simulator.virtual import SimulatedStage, Workload, World

BATCH_ROWS = 16
TRACES = Path(__file__).parents[1] / "examples" / "traces"
SIMULATED = {"balanced": "ours", "rayReservation": "ray-reservation"}
"""The simulator's name of a policy; it has none like Ray's own autoscaler."""
ARBITER_TICK_SECONDS = 0.5
"""How often the real run decides."""
STARTS = 5
"""Replicas whose start is measured, one after another."""
SPENT = ("work", "start", "idle", "free", "not there")


@dataclass(frozen=True)
class Run:
    """What one run made of the trace."""

    policy: str
    seed: int
    rows: int
    by_window: tuple[int, ...]
    load_seconds: float
    delays: Delays
    spent: dict[str, float]


class Starting:
    """An actor that needs what a replica does."""

    def __init__(self) -> None:
        import ray.data  # noqa: F401

        import llmbatch.runtime.stages  # noqa: F401

    def ready(self) -> None:
        """Answer."""


def start_seconds() -> float:
    """Return the mean seconds in which an actor starts on a traced node where nothing else does."""
    import ray

    took = []
    nodes = LocalCapacity(Trace.constant(1, 3600.0))
    os.environ.setdefault("RAY_worker_niceness", "0")
    with embedded_ray(RunOptions(object_store_mb=200, capacity=nodes), Desired(), preload=True):
        for _ in range(STARTS):
            time.sleep(2 * ARBITER_TICK_SECONDS)
            began = time.monotonic()
            actor = ray.remote(num_gpus=1)(Starting).remote()
            ray.get(actor.ready.remote())
            took.append(time.monotonic() - began)
            ray.kill(actor)
    return statistics.fmean(took)


def job(policy: str, services: Sequence[float], load: float, rows: Path, output: Path) -> dict[str, Any]:
    """Return the job document."""
    stages = [
        {
            "name": f"stage{number}",
            "engine": "simulated",
            "prompt": {"user": "{{ text }}"},
            "sampling": {"maxTokens": 4},
            "replicas": {"min": 1, "max": 8},
            "resources": {"gpus": 1, "cpus": 0.1},
            "batchSize": BATCH_ROWS,
            "simulation": {"secondsPerRow": seconds / BATCH_ROWS, "loadSeconds": load},
        }
        for number, seconds in enumerate(services, 1)
    ]
    return {
        "apiVersion": "llmbatch.dev/v1alpha1",
        "kind": "LLMBatchJob",
        "metadata": {"name": "preempted"},
        "spec": {
            "input": {"uri": str(rows), "format": "jsonl", "idField": "id"},
            "stages": stages,
            "output": {"uri": str(output)},
            "shardRows": BATCH_ROWS,
            "allocation": {"policy": policy},
        },
    }


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace with the names of its nodes, so that every policy loses the same ones."""
    lines = [f"{seconds:g},{';'.join(sorted(nodes))}" for seconds, nodes in trace.events]
    lines.append(f"{trace.end_seconds:g},{';'.join(sorted(trace.events[-1][1]))}")
    path.write_text("\n".join(["time_seconds,nodes", *lines]) + "\n")


def run(policy: str, seed: int, start: float, options: argparse.Namespace) -> Run:
    """Run one policy on the trace to its end."""
    services = [float(part) for part in options.service.split(",")]
    trace = read_trace(options.trace, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        paid = trace.gpu_seconds() / sum(services) * BATCH_ROWS
        with (here / "rows.jsonl").open("w") as file:
            for number in range(int(1.5 * paid)):
                file.write(json.dumps({"id": f"r{number}", "text": f"document {number}"}) + "\n")
        write_trace(trace, here / "trace.csv")
        document = job(policy, services, options.load, here / "rows.jsonl", here / "out")
        (here / "job.json").write_text(json.dumps(document))
        seen = _watch(here, trace.end_seconds, options)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, seen))
        (options.keep / f"{options.trace.stem}-{policy}-{seed}.jsonl").write_text(lines)
    loads = [pool["loadSeconds"] for pool in seen[-1]["pools"] if pool.get("loadSeconds")]
    load = statistics.fmean(loads) if loads else options.load
    ends = [window.end for window in trace.windows()]
    counts = [0, *(_rows_at(seen, end) for end in ends)]
    windows = tuple(after - before for before, after in pairwise(counts))
    return Run(policy, seed, counts[-1], windows, load, delays(seen, trace, start), spent(seen, trace))


def delays(seen: Sequence[dict[str, Any]], trace: Trace, start: float) -> Delays:
    """Return what a run took for what takes no time in the trace; `start` are the seconds of a replica's process."""
    begins = [one["seconds"] for one in seen if any(pool["pending"] or pool["ready"] for pool in one["pools"])]
    joins, losses = [], []
    for change in list(trace.changes())[1:]:
        gpus = trace.gpus_at(change.seconds)
        after = [one for one in seen if one["seconds"] >= change.seconds]
        took = next((one["seconds"] - change.seconds for one in after if one["gpus"] == gpus), None)
        if took is not None and change.added:
            joins.append(took / len(change.added))
        elif took is not None:
            losses.append(took)
    return Delays(
        begin_seconds=begins[0] if begins else 0.0,
        start_seconds=start,
        cores=os.cpu_count() or 1,
        most_starting=most_starting(RunOptions(capacity=LocalCapacity(trace))),
        join_seconds=statistics.fmean(joins or [0.0]),
        loss_seconds=statistics.fmean(losses or [0.0]),
    )


def spent(seen: Sequence[dict[str, Any]], trace: Trace) -> dict[str, float]:
    """Return the share of the trace's GPU-seconds by what became of them."""
    found = dict.fromkeys(SPENT, 0.0)
    for before, one in pairwise(seen):
        seconds = one["seconds"] - before["seconds"]
        pools, gpus = one["pools"], max(one["gpus"], trace.gpus_at(one["seconds"]))
        start = sum(pool["pending"] + pool["restarting"] for pool in pools)
        served = sum(pool["ready"] + pool["retiring"] for pool in pools)
        found["start"] += start * seconds
        found["idle"] += served * seconds
        found["free"] += max(0, one["gpus"] - start - served) * seconds
        found["not there"] += (gpus - one["gpus"]) * seconds
    found["work"] = sum((pool.get("serviceSecondsPerRow") or 0.0) * pool["rowsCompleted"] for pool in seen[-1]["pools"])
    found["idle"] -= found["work"]
    whole = sum(found.values())
    return {part: value / whole for part, value in found.items()}


def oracle_rows(seed: int, load: float, options: argparse.Namespace) -> float:
    """Return the rows that a clairvoyant schedule commits with loads of so many seconds."""
    services = [float(part) for part in options.service.split(",")]
    stages = [OracleStage(seconds / BATCH_ROWS, load) for seconds in services]
    return most_rows(read_trace(options.trace, seed=seed), stages)


def simulated_rows(one: Run, options: argparse.Namespace) -> float | None:
    """Return the rows of the same case in the simulator; None for a policy that it has not."""
    if one.policy not in SIMULATED:
        return None
    services = [float(part) for part in options.service.split(",")]
    stages = [SimulatedStage(f"stage{number}", seconds, options.load) for number, seconds in enumerate(services, 1)]
    workload = Workload(
        stages,
        BATCH_ROWS,
        notice_seconds=options.notice or 0.0,
        tick_seconds=ARBITER_TICK_SECONDS,
        delays=one.delays,
    )
    trace = read_trace(options.trace, seed=one.seed)
    return World(trace, workload, POLICIES[SIMULATED[one.policy]](trace, workload), seed=one.seed).run().rows


def _watch(here: Path, end: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the job until the trace has ended, and return its progress; seconds count from the first one on."""
    program = str(Path(sys.executable).parent / "llmbatch")
    command = [program, "run", "job.json", "--capacity", "trace.csv", "--json", "--object-store-mb", "200"]
    if options.notice is not None:
        command += ["--notice", str(options.notice)]
    # Ray's workers are nice by 15: beside other work on the machine they would get next to nothing of it.
    env = os.environ | {"RAY_worker_niceness": "0"} | dict(pair.split("=", 1) for pair in options.ray)
    seen: list[dict[str, Any]] = []
    with (
        (here / "log").open("w") as log,
        subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=log, text=True, env=env) as process,
    ):
        assert process.stdout is not None
        began = None
        for line in process.stdout:
            progress = json.loads(line).get("progress") if line.startswith("{") else None
            if progress is None:
                continue
            began = progress["elapsedSeconds"] if began is None else began
            seen.append(progress | {"seconds": progress["elapsedSeconds"] - began})
            if seen[-1]["seconds"] >= end:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    if not seen:
        raise SystemExit((here / "log").read_text()[-2000:])
    return seen


def _rows_at(seen: Sequence[dict[str, Any]], seconds: float) -> int:
    return max((one["rows"]["rowsCompleted"] for one in seen if one["seconds"] <= seconds + 0.5), default=0)


def print_spent(runs: Sequence[Run]) -> None:
    """Print what the GPU-seconds of the runs went to, and the delays that were measured; stock has no such figures."""
    print(f"\n| policy | seed | {' | '.join(SPENT)} | begin | start | join | loss |\n|{'---|' * (len(SPENT) + 6)}")
    for one in runs:
        if one.policy in SIMULATED:
            parts = " | ".join(f"{one.spent[part]:.1%}" for part in SPENT)
            seconds = (one.delays.begin_seconds, one.delays.start_seconds, one.delays.join_seconds)
            took = " | ".join(f"{second:.1f} s" for second in (*seconds, one.delays.loss_seconds))
            print(f"| {one.policy} | {one.seed} | {parts} | {took} |")
    print()


def main() -> None:
    """Run every policy with every seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--policy", action="append", choices=["balanced", "rayReservation", "stock"])
    parser.add_argument("--trace", type=Path, default=TRACES / "six-two-six.csv")
    parser.add_argument("--service", default="1,3,0.5", help="seconds a batch, by stage")
    parser.add_argument("--load", type=float, default=3.0, help="seconds a model takes to load")
    parser.add_argument("--notice", type=float)
    parser.add_argument("--ray", action="append", default=[], help="NAME=VALUE for Ray's environment")
    parser.add_argument("--keep", type=Path, help="folder for the progress of every run, one JSON line a tick")
    options = parser.parse_args()
    policies = options.policy or ["balanced", "rayReservation", "stock"]
    start = start_seconds()
    print(
        "| policy | seed | rows | by window | load, s | oracle | E | simulated E |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    found: list[Run] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        runs = [run(policy, seed, start, options) for policy in policies]
        bound = oracle_rows(seed, min(one.load_seconds for one in runs), options)
        for one in runs:
            windows = ", ".join(map(str, one.by_window))
            rows = simulated_rows(one, options)
            simulated = "-" if rows is None else f"{rows / bound:.2f}"
            print(
                f"| {one.policy} | {seed} | {one.rows:,} | {windows} | {one.load_seconds:.1f} | {bound:,.0f} "
                f"| {one.rows / bound:.2f} | {simulated} |",
                flush=True,
            )
        found += runs
    print_spent(found)
    means = {policy: statistics.fmean(one.rows for one in found if one.policy == policy) for policy in policies}
    base = means[policies[-1]]
    for policy in policies[:-1]:
        ratio = means[policy] / base if base else float("inf")
        print(f"{policy}: {means[policy]:,.0f} rows, {ratio:.2f} x {policies[-1]} ({base:,.0f})")


if __name__ == "__main__":
    main()
