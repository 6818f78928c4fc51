"""Questions put to the simulated world: how policies compare on a trace, and what rows cost on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.baselines import Fixed, RestartAll
from llmbatch.simulator.compare import Outcome
from llmbatch.simulator.oracle import OracleStage
from llmbatch.simulator.ours import Allocated
from llmbatch.simulator.planner import Estimate, Rounds, estimate
from llmbatch.simulator.virtual import Policy, Workload, World

POLICIES: Mapping[str, Callable[[Trace, Workload], Policy]] = {
    "ours": lambda trace, workload: Allocated(workload, trace.gpus_per_node),
    "ray-reservation": lambda trace, workload: Allocated(workload, trace.gpus_per_node, "rayReservation"),
    "fixed": lambda trace, workload: Fixed(trace, workload.stages),
    "restart-all": lambda _trace, _workload: RestartAll(),
}
"""The policies by the name a user gives."""
ROUND_SECONDS_LEAST = 6 * 3600.0
"""Constant capacity is planned from a round of this many seconds, or of the trace's if that is longer."""


@dataclass(frozen=True)
class Plan:
    """What some rows take under a policy on one kind of capacity: mean nodes there, and an estimate a seed."""

    policy: str
    capacity: str
    nodes: float
    priced: bool
    estimates: Sequence[Estimate]


def oracle_stages(workload: Workload, most_gpus: int) -> list[OracleStage]:
    """Return the stages as the bounds see them.

    The rows between two stages are those that wait and those in work at the later one, on at most every GPU.
    """
    buffer_rows = (workload.buffer_batches + most_gpus) * workload.batch_rows
    return [
        OracleStage(
            stage.service_seconds * stage.gpus / workload.batch_rows,
            workload.delays.start_seconds + stage.load_seconds,
            stage.gpus,
            buffer_rows,
        )
        for stage in workload.stages
    ]


def run(name: str, trace: Trace, workload: Workload, seed: int, bound: float) -> Outcome:
    """Simulate one policy with input that does not end, on the whole trace."""
    done = World(trace, workload, POLICIES[name](trace, workload), seed=seed).run()
    return Outcome(name, seed, done.rows, done.seconds, done.gpu_seconds, done.spent, bound, done.series)


def plan(name: str, capacity: str, traces: Sequence[Trace], workload: Workload, rows: int, price: float | None) -> Plan:
    """Return what rows take under a policy on each of some traces, one a seed, that go on as long as it takes."""
    nodes = traces[0].gpu_seconds() / traces[0].end_seconds / traces[0].gpus_per_node
    found = [_estimate(name, trace, workload, seed, rows, price or 0.0) for seed, trace in enumerate(traces)]
    return Plan(name, capacity, nodes, price is not None, found)


def _estimate(name: str, trace: Trace, workload: Workload, seed: int, rows: int, price: float) -> Estimate:
    """Simulate two rounds of the trace, or less where the rows are done before."""
    twice = trace.repeated(2 * trace.end_seconds)
    done = World(twice, workload, POLICIES[name](trace, workload), seed=seed, rows=rows).run()
    committed = list(zip(done.series.seconds, done.series.committed, strict=True))
    return estimate(Rounds(trace, committed), rows, price)


def constant(nodes: int, like: Trace) -> Trace:
    """Return capacity that does not change, to plan with beside a trace."""
    return Trace.constant(nodes, max(like.end_seconds, ROUND_SECONDS_LEAST), like.gpus_per_node)
