"""What keeps small pools from the bound: whole replicas, or not knowing the future.

    python benchmarks/whole_replicas.py

The bound of `simulator.oracle` may split GPUs, and knows the trace beforehand. Beside it stands the best schedule of
whole replicas that HiGHS finds in a minute and that knows the trace as well, with buffers between the stages as large
as it likes and with smaller ones, and what llmbatch's allocation, which knows nothing beforehand, makes of the same
case in virtual time: the mean of several seeds. All are shares of the bound, and all know only one delay, the load.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from llmbatch.simulator.oracle import OracleStage, most_rows, whole_rows
from llmbatch.simulator.ours import Allocated
from llmbatch.simulator.trace import read_trace
from llmbatch.simulator.virtual import SimulatedStage, Workload, World

TRACES = Path(__file__).parents[1] / "examples" / "traces"
CASES = {
    "six-two-six": (1.0, 3.0, 0.5),
    "half-starved": (1.0, 3.0, 0.5),
    "four-one-four": (2.0, 1.0),
    "eight-three-eight": (0.5, 1.0, 2.0, 0.75, 0.25),
}
"""Seconds a batch, by stage: the cases of `local_preemption.py`."""
BATCH_ROWS = 16
BUFFERS = (math.inf, 512.0, 256.0)
TICK_SECONDS = 0.5


def ours(name: str, load: float, seeds: int) -> float:
    """Return the rows of llmbatch's allocation: the mean over the seeds."""
    stages = [SimulatedStage(f"stage{number}", seconds, load) for number, seconds in enumerate(CASES[name], 1)]
    workload = Workload(stages, BATCH_ROWS, tick_seconds=TICK_SECONDS)
    found = []
    for seed in range(seeds):
        trace = read_trace(TRACES / f"{name}.csv", seed=seed)
        policy = Allocated(workload, trace.gpus_per_node)
        found.append(World(trace, workload, policy, seed=seed).run().rows)
    return statistics.fmean(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--load", type=float, default=4.2, help="seconds until a new replica takes rows")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the search of each schedule")
    options = parser.parse_args()
    titles = ["any buffer" if math.isinf(rows) else f"{rows:g} rows" for rows in BUFFERS]
    print(f"| trace | bound, rows | whole, {' | whole, '.join(titles)} | ours |\n|{'---|' * (len(BUFFERS) + 3)}")
    for name, services in CASES.items():
        trace = read_trace(TRACES / f"{name}.csv", seed=0)
        chain = [OracleStage(seconds / BATCH_ROWS, options.load) for seconds in services]
        bound = most_rows(trace, chain)
        shares = []
        for buffer in BUFFERS:
            limited = [OracleStage(seconds / BATCH_ROWS, options.load, buffer_rows=buffer) for seconds in services]
            shares.append(whole_rows(trace, limited, dt=options.load / 2, seconds=options.seconds) / bound)
        shares.append(ours(name, options.load, options.seeds) / bound)
        print(f"| {name} | {bound:,.0f} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
