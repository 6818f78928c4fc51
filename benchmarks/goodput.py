"""What each policy makes of spot capacity, in virtual time, as a share of what a clairvoyant schedule would.

    python benchmarks/goodput.py --seeds 5 --raw goodput.jsonl

Every trace is played with several chains, load times and notices. Traces with many nodes are also thinned to every
k-th node, so that small pools meet the same storms. E is the rows over the linear program's (`simulator.oracle`) on
the same trace, seed by seed; a run above 1 or whose GPU-seconds do not add up fails the whole benchmark.

Hours of one core: `--raw` keeps every run, and goes on where it was cut off.
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
from llmbatch.simulator.compare import Unserved, short_windows, unserved
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
    bound: float
    efficiency: float
    failed: bool
    spent: dict[str, float]
    unserved: Unserved
    short_windows: int
    stuck_windows: int


def cells(seeds: int, names: Sequence[str]) -> Iterator[Cell]:
    """Yield every load with every notice on every trace, the chains taking turns; one seed after the other."""
    chains = cycle(CHAINS)
    cases = [(*case, next(chains)) for case in product(FILES, LOADS, NOTICES)]
    for seed, (name, load, notice, chain) in product(range(seeds), cases):
        if name in names:
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


def play(task: tuple[Cell, Sequence[str], float | None]) -> list[Found]:
    """Play a cell with some policies, against one bound, which is computed where it is not known."""
    cell, policies, known = task
    trace = played(cell)
    stages = [
        SimulatedStage(f"stage {number}", seconds, cell.load, 1) for number, seconds in enumerate(CHAINS[cell.chain], 1)
    ]
    workload = Workload(stages, notice_seconds=cell.notice)
    bound = known or bounds(trace, oracle_stages(workload, trace.most_gpus)).clairvoyant
    gpus = trace.gpu_seconds() / trace.end_seconds
    found = []
    for policy in policies:
        outcome = run(policy, trace, workload, cell.seed, bound)
        spent = {part: outcome.share(part) for part in outcome.spent}
        waited = unserved(outcome.series, len(stages))
        windows = short_windows(trace, outcome.series, len(stages), 3 * cell.load * len(stages))
        share = outcome.efficiency
        found.append(Found(cell, policy, gpus, bound, share.share, outcome.failed, spent, waited, *windows))
    return found


def regime(gpus: float) -> str:
    """Return the name of a mean number of GPUs."""
    return next(name for least, name in REGIMES if gpus >= least)


def table(found: Sequence[Found]) -> str:
    """Return E by regime and policy as Markdown: mean, minimum, and redone work as a share of the GPU-seconds."""
    lines = [
        "| mean GPUs | policy | runs | E mean | E minimum | redone, no notice | redone, 120 s | starved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, policy, runs in _grouped(found):
        shares = [one.efficiency for one in runs]
        lines.append(
            f"| {name} | {policy} | {len(runs)} | {statistics.fmean(shares):.3f} | {min(shares):.3f} "
            f"| {_mean(runs, 'redo', 0.0)} | {_mean(runs, 'redo', 120.0)} | {_mean(runs, 'starved')} |"
        )
    return "\n".join(lines)


def by_service(found: Sequence[Found]) -> str:
    """Return by regime and policy whether stages had replicas, and whether rows came out, as Markdown."""
    lines = [
        "| mean GPUs | policy | rows wait, no replica | longest, less the load | windows | no row out |",
        "|---|---|---|---|---|---|",
    ]
    for name, policy, runs in _grouped(found):
        share = statistics.fmean(one.unserved.share for one in runs)
        longest = max(one.unserved.longest_seconds - one.cell.load for one in runs)
        windows, stuck = sum(one.short_windows for one in runs), sum(one.stuck_windows for one in runs)
        lines.append(f"| {name} | {policy} | {share:.2%} | {longest:,.0f} s | {windows} | {stuck} |")
    return "\n".join(lines)


def _grouped(found: Sequence[Found]) -> Iterator[tuple[str, str, Sequence[Found]]]:
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in found:
        groups[regime(one.gpus), one.policy].append(one)
    for (_, name), policy in product(REGIMES, POLICIES):
        if runs := groups[name, policy]:
            yield name, policy, runs


def by_trace(found: Sequence[Found]) -> str:
    """Return llmbatch's E by trace as Markdown, beside the best of the others on the same runs."""
    lines = [
        "| trace | mean GPUs | E mean | E minimum | worst chain, load, notice | ray-reservation |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.cell.trace for one in found):
        ours = [one for one in found if one.cell.trace == name and one.policy == "ours"]
        if not ours:
            continue
        stock = [one.efficiency for one in found if one.cell.trace == name and one.policy == "ray-reservation"]
        worst = min(ours, key=lambda one: one.efficiency)
        mean = statistics.fmean(one.efficiency for one in ours)
        gpus = statistics.fmean(one.gpus for one in ours)
        case = f"{worst.cell.chain}, {worst.cell.load:g} s, {worst.cell.notice:g} s"
        lines.append(f"| {name} | {gpus:.1f} | {mean:.3f} | {worst.efficiency:.3f} | {case} | {_or_none(stock)} |")
    return "\n".join(lines)


def _or_none(shares: Sequence[float]) -> str:
    return f"{statistics.fmean(shares):.3f}" if shares else "-"


def _mean(runs: Sequence[Found], part: str, notice: float | None = None) -> str:
    shares = [one.spent.get(part, 0.0) for one in runs if notice in (None, one.cell.notice)]
    return f"{statistics.fmean(shares):.2%}" if shares else "-"


def kept(path: Path | None) -> list[Found]:
    """Return the runs of a file that an earlier call wrote."""
    if path is None or not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Found(**line | {"cell": Cell(**line["cell"]), "unserved": Unserved(**line["unserved"])}) for line in lines]


def missing(options: argparse.Namespace, found: Sequence[Found]) -> list[tuple[Cell, Sequence[str], float | None]]:
    """Return what is still to be played: a cell, its policies, and its bound where that is known."""
    done = {(one.cell, one.policy) for one in found}
    bound = {one.cell: one.bound for one in found}
    tasks = []
    for cell in cells(options.seeds, options.trace or list(FILES)):
        policies = [policy for policy in options.policy or POLICIES if (cell, policy) not in done]
        if policies:
            tasks.append((cell, policies, bound.get(cell)))
    return tasks


def main() -> int:
    """Play all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--trace", action="append", choices=FILES, help="only these")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="only these")
    parser.add_argument("--raw", type=Path, help="one JSON line a run; those that are there are not played again")
    options = parser.parse_args()
    found = kept(options.raw)
    todo = missing(options, found)
    with ProcessPoolExecutor(options.jobs) as pool:
        for done, results in enumerate(pool.map(play, todo), 1):
            found += results
            if options.raw is not None:
                with options.raw.open("a") as file:
                    file.writelines(json.dumps(asdict(one)) + "\n" for one in results)
            if done % 50 == 0:
                print(f"{done} of {len(todo)}", file=sys.stderr, flush=True)
    print(f"{table(found)}\n\n{by_service(found)}\n\n{by_trace(found)}\n")
    failed = [one for one in found if one.failed]
    print(f"{len(found)} runs, {len(failed)} of them no measurement (E > 1, or GPU-seconds that do not add up)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
