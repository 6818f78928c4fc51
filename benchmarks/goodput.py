"""What each policy makes of spot capacity, in virtual time, as a share of what a clairvoyant schedule would.

    python benchmarks/goodput.py --seeds 5 --jobs 2 --out docs/tables/goodput.md

Every trace is played with several chains, load times and notices. Traces with many nodes are also thinned to every
k-th node, so that small pools meet the same storms. E is the rows over the linear program's (`simulator.oracle`) on
the same trace, seed by seed; a run above 1 or whose GPU-seconds do not add up fails the whole benchmark.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, product
from pathlib import Path

from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.oracle import bounds
from llmbatch.simulator.study import POLICIES, oracle_stages, run
from llmbatch.simulator.trace import read_trace
from llmbatch.simulator.virtual import SimulatedStage, Workload

TRACES = Path(__file__).parents[1] / "examples" / "traces"
FILES = {
    "p3": ("bamboo/aws-p3.csv", 1),
    "g4dn": ("bamboo/aws-g4dn.csv", 1),
    "a100": ("bamboo/gcp-a100.txt", 1),
    "HH": ("parcae/hh.txt", 1),
    "HL": ("parcae/hl.txt", 1),
    "LH": ("parcae/lh.txt", 1),
    "LL": ("parcae/ll.txt", 1),
    "p3 / 5": ("bamboo/aws-p3.csv", 5),
    "g4dn / 5": ("bamboo/aws-g4dn.csv", 5),
    "HH / 3": ("parcae/hh.txt", 3),
    "LH / 6": ("parcae/lh.txt", 6),
    "p3 / 10": ("bamboo/aws-p3.csv", 10),
    "g4dn / 10": ("bamboo/aws-g4dn.csv", 10),
    "HL / 4": ("parcae/hl.txt", 4),
    "LL / 5": ("parcae/ll.txt", 5),
    "p3 / 25": ("bamboo/aws-p3.csv", 25),
    "g4dn / 25": ("bamboo/aws-g4dn.csv", 25),
}
"""Trace file, and which share of its nodes is kept: one in so many."""
CHAINS: dict[str, tuple[float, ...]] = {
    "20:60:10": (20, 60, 10),
    "30:30:30": (30, 30, 30),
    "5:80:5": (5, 80, 5),
    "60:30": (60, 30),
    "10:20:40:15:5": (10, 20, 40, 15, 5),
}
"""Seconds a replica needs for a batch of 16 rows, by stage."""
LOADS = (30.0, 60.0, 180.0, 300.0)
NOTICES = (0.0, 30.0, 120.0)
HOURS = 8.0
REGIMES = ((16.0, ">= 16 GPUs"), (8.0, "8 to 15 GPUs"), (3.0, "3 to 7 GPUs"), (0.0, "fewer than 3 GPUs"))


@dataclass(frozen=True)
class Cell:
    """One trace with one workload, played once by each policy."""

    trace: str
    chain: str
    load: float
    notice: float
    seed: int


@dataclass(frozen=True)
class Found:
    """What one policy made of a cell. Shares are of the GPU-seconds that were there."""

    cell: Cell
    policy: str
    gpus: float
    efficiency: float
    failed: bool
    spent: dict[str, float]


def cells(seeds: int, names: Sequence[str]) -> Iterator[Cell]:
    """Yield every load with every notice on every trace, the chains taking turns, each with other seeds."""
    chains = cycle(CHAINS)
    for name, load, notice in product(names, LOADS, NOTICES):
        chain = next(chains)
        for seed in range(seeds):
            yield Cell(name, chain, load, notice, seed)


def played(cell: Cell) -> Trace:
    """Return the first hours of a trace, thinned where its entry says so, from its first node on."""
    file, keep = FILES[cell.trace]
    whole = read_trace(TRACES / file, seed=cell.seed)
    nodes = sorted({stay.node for stay in whole.lifetimes()})
    kept = frozenset(nodes[cell.seed % keep :: keep])
    thinned = Trace.of(
        [(seconds, there & kept) for seconds, there in whole.events], whole.end_seconds, whole.gpus_per_node
    )
    start = next(seconds for seconds, there in thinned.events if there)
    return thinned.slice(start, min(thinned.end_seconds, start + HOURS * 3600))


def play(cell: Cell) -> list[Found]:
    """Play a cell with every policy, against one bound."""
    trace = played(cell)
    stages = [
        SimulatedStage(f"stage {number}", seconds, cell.load, 1) for number, seconds in enumerate(CHAINS[cell.chain], 1)
    ]
    workload = Workload(stages, notice_seconds=cell.notice)
    bound = bounds(trace, oracle_stages(workload, trace.most_gpus)).clairvoyant
    gpus = trace.gpu_seconds() / trace.end_seconds
    found = []
    for policy in POLICIES:
        outcome = run(policy, trace, workload, cell.seed, bound)
        spent = {part: outcome.share(part) for part in outcome.spent}
        found.append(Found(cell, policy, gpus, outcome.efficiency.share, outcome.failed, spent))
    return found


def regime(gpus: float) -> str:
    """Return the name of a mean number of GPUs."""
    return next(name for least, name in REGIMES if gpus >= least)


def table(found: Sequence[Found]) -> str:
    """Return E by regime and policy as Markdown: mean, minimum, and redone work as a share of the GPU-seconds."""
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in found:
        groups[regime(one.gpus), one.policy].append(one)
    lines = [
        "| mean GPUs | policy | runs | E mean | E minimum | redone, no notice | redone, 120 s | starved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (_, name), policy in product(REGIMES, POLICIES):
        runs = groups[name, policy]
        if not runs:
            continue
        shares = [one.efficiency for one in runs]
        lines.append(
            f"| {name} | {policy} | {len(runs)} | {statistics.fmean(shares):.3f} | {min(shares):.3f} "
            f"| {_mean(runs, 'redo', 0.0)} | {_mean(runs, 'redo', 120.0)} | {_mean(runs, 'starved')} |"
        )
    return "\n".join(lines)


def by_trace(found: Sequence[Found]) -> str:
    """Return llmbatch's E by trace as Markdown, beside the best of the others on the same runs."""
    lines = [
        "| trace | mean GPUs | E mean | E minimum | worst chain, load, notice | ray-reservation |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.cell.trace for one in found):
        ours = [one for one in found if one.cell.trace == name and one.policy == "ours"]
        stock = [one.efficiency for one in found if one.cell.trace == name and one.policy == "ray-reservation"]
        worst = min(ours, key=lambda one: one.efficiency)
        mean = statistics.fmean(one.efficiency for one in ours)
        gpus = statistics.fmean(one.gpus for one in ours)
        case = f"{worst.cell.chain}, {worst.cell.load:g} s, {worst.cell.notice:g} s"
        lines.append(
            f"| {name} | {gpus:.1f} | {mean:.3f} | {worst.efficiency:.3f} | {case} | {statistics.fmean(stock):.3f} |"
        )
    return "\n".join(lines)


def _mean(runs: Sequence[Found], part: str, notice: float | None = None) -> str:
    shares = [one.spent.get(part, 0.0) for one in runs if notice in (None, one.cell.notice)]
    return f"{statistics.fmean(shares):.2%}" if shares else "-"


def main() -> int:
    """Play all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trace", action="append", choices=FILES, help="only these")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--raw", type=Path, help="also write one JSON line a run here")
    options = parser.parse_args()
    todo = list(cells(options.seeds, options.trace or list(FILES)))
    found: list[Found] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for done, results in enumerate(pool.map(play, todo), 1):
            found += results
            if done % 50 == 0:
                print(f"{done} of {len(todo)}", file=sys.stderr, flush=True)
    if options.raw is not None:
        options.raw.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
    text = f"{table(found)}\n\n{by_trace(found)}\n"
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    failed = [one for one in found if one.failed]
    print(f"{len(found)} runs, {len(failed)} of them no measurement (E > 1, or GPU-seconds that do not add up)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
