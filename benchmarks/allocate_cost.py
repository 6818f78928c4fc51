"""What one call of `allocate` costs, from 10 to 10,000 GPUs and from 2 to 8 stages.

    python benchmarks/allocate_cost.py --seeds 5

Prints milliseconds a call, and the ratio to the smallest case of the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from llmbatch.core.stages.allocate import allocate
from llmbatch.core.stages.model import AllocationOptions, CapacityView, Estimate, NodeView, PoolView, ReplicaView

GPUS_PER_NODE = 8
NOW = 1000.0
CALLS = 20


def case(gpus: int, stages: int, seed: int) -> tuple[list[PoolView], CapacityView]:
    """A chain in full work: every GPU holds a replica, one node in ten is about to go."""
    draw = random.Random(seed)
    nodes = [
        NodeView(f"n{number}", GPUS_PER_NODE, 64.0, deadline=NOW + 60 if draw.random() < 0.1 else None)
        for number in range(max(1, gpus // GPUS_PER_NODE))
    ]
    replicas: list[list[ReplicaView]] = [[] for _ in range(stages)]
    for number in range(gpus):
        held = draw.choice(replicas)
        held.append(ReplicaView(f"r{number}", draw.choice(nodes).id, "ready", draw.choice((0, 16)), draw.random()))
    pools = [
        PoolView(
            stage=f"s{index}",
            min_replicas=1,
            max_replicas=gpus,
            service=Estimate(draw.uniform(0.1, 3.0), 10),
            load_seconds=Estimate(60.0, 3),
            batch_p95_seconds=Estimate(5.0, 10),
            replicas=held,
            queued_rows=draw.randrange(2000),
            batch_rows=16,
        )
        for index, held in enumerate(replicas)
    ]
    return pools, CapacityView(nodes)


def milliseconds(gpus: int, stages: int, seed: int) -> float:
    """Return the median time of a call."""
    pools, capacity = case(gpus, stages, seed)
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        allocate(pools, capacity, NOW, AllocationOptions())
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print("| GPUs | stages | ms a call, mean | worst seed | ratio to 10 GPUs |\n|---|---|---|---|---|")
    for stages in (2, 3, 8):
        base = statistics.fmean(milliseconds(10, stages, seed) for seed in seeds)
        for gpus in (10, 100, 1_000, 10_000):
            found = [milliseconds(gpus, stages, seed) for seed in seeds]
            mean = statistics.fmean(found)
            print(f"| {gpus:,} | {stages} | {mean:.2f} | {max(found):.2f} | {mean / base:.1f} |")


if __name__ == "__main__":
    main()
