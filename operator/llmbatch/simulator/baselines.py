"""Policies to compare with: pools that never change, and a job that starts again when a node goes."""

from __future__ import annotations

from collections.abc import Sequence

from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.virtual import Pool, SimulatedStage


def split(gpus: int, stages: Sequence[SimulatedStage]) -> list[int]:
    """Return the replicas that make the slowest stage fastest on a number of GPUs: greedy, which is best here."""
    replicas = [0] * len(stages)
    while True:
        rates = [count / stage.service_seconds for count, stage in zip(replicas, stages, strict=True)]
        slowest = rates.index(min(rates))
        gpus -= stages[slowest].gpus
        if gpus < 0:
            return replicas
        replicas[slowest] += 1


class Fixed:
    """Pools sized once for the most GPUs of the trace; lost replicas are replaced, the first stage's first."""

    late_drain = False

    def __init__(self, trace: Trace, stages: Sequence[SimulatedStage]) -> None:
        self._targets = split(trace.most_gpus, stages)

    def targets(self, now: float, pools: Sequence[Pool], free: dict[str, int], doomed: dict[str, float]) -> list[int]:
        """Return the same replicas always."""
        del now, pools, free, doomed
        return self._targets

    def restarts(self) -> bool:
        """Return that replicas live through the loss of a node."""
        return False


class RestartAll:
    """A job that is sized for the GPUs at its start, and starts again whenever a node is lost."""

    late_drain = False

    def targets(self, now: float, pools: Sequence[Pool], free: dict[str, int], doomed: dict[str, float]) -> list[int]:
        """Return the best replicas for the GPUs that are there."""
        del now, doomed
        held = sum(replica.gpus for pool in pools for replica in pool.replicas)
        return split(sum(free.values()) + held, [pool.stage for pool in pools])

    def restarts(self) -> bool:
        """Return that the loss of a node ends every replica."""
        return True
