"""What the policy of spot and on-demand workers costs, and how long it takes, over recorded spot traces.

    PYTHONPATH=operator python benchmarks/capacity_mix.py --seeds 5

The real `plan_capacity()` is asked every 10 s of virtual time. Spot nodes come and go as the trace says, without
notice; an on-demand node comes 2 minutes after it is asked for; each worker then loads its model. The job has work for
12 workers over 4 hours and starts at a random moment of the trace, one a seed. A worker costs from the moment it has a
node. Cost and time are given as shares of the same job on demand only, in the same run: medians and the range over the
seeds. `starts` counts the workers that got a node and began to load.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from llmbatch.api.job import CapacitySpec
from llmbatch.core.capacity.forecast import Forecast
from llmbatch.core.capacity.policy import CHURN_SAMPLE, Fallback, Fleet, Loss, Situation, plan_capacity
from llmbatch.core.capacity.trace import Trace
from llmbatch.core.capacity.trace_formats import parse_trace

TRACES = Path(__file__).parents[1] / "examples" / "traces" / "bamboo"
FILES = {
    "p3 / 3": ("aws-p3.csv", 3),
    "g4dn": ("aws-g4dn.csv", 1),
    "a100 / 3": ("gcp-a100.txt", 3),
}
"""Trace file, and which share of its nodes is kept: one in so many."""
WORKERS = 12
WORK = WORKERS * 4 * 3600.0
STEP = 10.0
PROVISIONING, LOADING = 120.0, 180.0
SPOT_PRICE, ON_DEMAND_PRICE = 0.35, 1.0
WARM_UP = 300.0
GIVE_UP = 10 * WORK / WORKERS
NEVER = 31_536_000
DEADLINE = 1.15 * WORK / WORKERS + PROVISIONING + LOADING


def policy(spot: int, on_demand: int, after: int = 300, back: int = 600) -> CapacitySpec:
    return CapacitySpec.model_validate(
        {
            "spot": {"max": spot},
            "onDemand": {"max": on_demand},
            "fallback": {"afterSeconds": after, "returnAfterSeconds": back},
        }
    )


POLICIES: dict[str, tuple[CapacitySpec, float | None]] = {
    "on demand only": (policy(0, WORKERS), None),
    "spot only": (policy(WORKERS, 0), None),
    "fallback after 300 s, return after 600 s": (policy(WORKERS, WORKERS), None),
    "the same, with a deadline": (policy(WORKERS, WORKERS), DEADLINE),
    "return after 3600 s": (policy(WORKERS, WORKERS, 300, 3600), None),
    "no pause: return at once": (policy(WORKERS, WORKERS, 300, 0), None),
    "no patience and no pause": (policy(WORKERS, WORKERS, 0, 0), None),
    "never return": (policy(WORKERS, WORKERS, 300, NEVER), None),
}


@dataclass
class Worker:
    """A worker pod."""

    spot: bool
    created: float
    node: str | None = None
    placed: float = 0.0

    def works(self, now: float) -> bool:
        return self.node is not None and now - self.placed >= LOADING


@dataclass
class Run:
    """A job under a policy."""

    spec: CapacitySpec
    deadline: float | None
    trace: Trace
    start: float
    now: float = 0.0
    work: float = WORK
    cost: float = 0.0
    starts: int = 0
    workers: list[Worker] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    stored: Fallback = field(default_factory=Fallback)
    _names: count[int] = field(default_factory=count)

    def finish(self) -> None:
        """Play until the work is done, or for ten times as long as it should take."""
        while self.work > 0 and self.now < GIVE_UP:
            self._nodes_change()
            self._decide()
            self._pass()

    def _nodes_change(self) -> None:
        there = self.trace.at(self.start + self.now)
        for worker in [w for w in self.workers if w.spot and w.node is not None and w.node not in there]:
            self.workers.remove(worker)
            self.losses = [*self.losses, Loss(self.now, self.now - worker.created)][-CHURN_SAMPLE:]
        free = sorted(there - {worker.node for worker in self.workers})
        for worker in [w for w in self.workers if w.node is None]:
            if worker.spot and free:
                self._place(worker, free.pop(0))
            elif not worker.spot and self.now - worker.created >= PROVISIONING:
                self._place(worker, f"on-demand-{next(self._names)}")

    def _place(self, worker: Worker, node: str) -> None:
        worker.node, worker.placed = node, self.now
        self.starts += 1

    def _decide(self) -> None:
        mix = plan_capacity(
            Situation(
                spec=self.spec,
                now=self.now,
                useful=None if self.deadline else WORKERS,
                fleet=self._fleet(),
                forecast=self._forecast(),
                stored=self.stored,
            )
        )
        self.stored = mix.fallback
        for spot, target in ((True, mix.spot), (False, mix.on_demand)):
            self._resize(spot=spot, target=target)

    def _resize(self, *, spot: bool, target: int) -> None:
        group = sorted(
            (worker for worker in self.workers if worker.spot == spot),
            key=lambda worker: (worker.works(self.now), worker.node is not None, worker.created),
        )
        for worker in group[: max(0, len(group) - target)]:
            self.workers.remove(worker)
        for _ in range(target - len(group)):
            self.workers.append(Worker(spot=spot, created=self.now))

    def _fleet(self) -> Fleet:
        spot = [worker for worker in self.workers if worker.spot]
        return Fleet(
            spot=sum(worker.works(self.now) for worker in spot),
            starting=sum(worker.node is not None and not worker.works(self.now) for worker in spot),
            on_demand=sum(worker.works(self.now) for worker in self.workers if not worker.spot),
            waiting=tuple(worker.created for worker in spot if worker.node is None),
            losses=tuple(self.losses),
        )

    def _forecast(self) -> Forecast:
        working = sum(worker.works(self.now) for worker in self.workers)
        known = working and self.now >= WARM_UP
        return Forecast(
            remaining_seconds=self.work / working if known else None,
            workers=working,
            seconds_to_deadline=None if self.deadline is None else self.deadline - self.now,
        )

    def _pass(self) -> None:
        self.work -= STEP * sum(worker.works(self.now) for worker in self.workers)
        for worker in self.workers:
            if worker.node is not None:
                self.cost += STEP / 3600 * (SPOT_PRICE if worker.spot else ON_DEMAND_PRICE)
        self.now += STEP


def thinned(trace: Trace, one_in: int) -> Trace:
    """Keep one node in so many, by name."""
    nodes = sorted({node for _, there in trace.events for node in there})
    kept = frozenset(nodes[::one_in])
    events: list[tuple[float, frozenset[str]]] = []
    for time, there in trace.events:
        if not events or there & kept != events[-1][1]:
            events.append((time, there & kept))
    return Trace.of(events, trace.end_seconds)


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name, (file, one_in) in FILES.items():
        trace = thinned(parse_trace((TRACES / file).read_text(), file), one_in)
        long = trace.repeated(trace.end_seconds + GIVE_UP)
        share = trace.gpu_seconds() / trace.end_seconds / WORKERS
        print(f"\n{name}: spot nodes on average for {share:.2f} of the {WORKERS} workers\n")
        print("| policy | time | cost | starts | done in time |\n|---|---|---|---|---|")
        starts = [random.Random(seed).uniform(0, trace.end_seconds) for seed in range(arguments.seeds)]
        base: list[Run] = []
        for label, (spec, deadline) in POLICIES.items():
            runs = [Run(spec, deadline, long, start) for start in starts]
            for run in runs:
                run.finish()
            base = base or runs
            times = [run.now / first.now for run, first in zip(runs, base, strict=True)]
            costs = [run.cost / first.cost for run, first in zip(runs, base, strict=True)]
            in_time = sum(run.work <= 0 and run.now <= DEADLINE for run in runs)
            began = spread([float(run.starts) for run in runs], 0)
            print(f"| {label} | {spread(times)} | {spread(costs)} | {began} | {in_time} of {len(runs)} |")


if __name__ == "__main__":
    main()
