"""llmbatch's own allocation, and Ray's reservation, in the simulated world: the same code that runs on a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from llmbatch.core.stages.allocate import allocate
from llmbatch.core.stages.model import AllocationOptions, CapacityView, Estimate, NodeView, PoolView, ReplicaView
from llmbatch.simulator.virtual import JITTER, Pool, Replica, Workload


class Allocated:
    """Pools sized by `core.stages.allocate`. Service times are known, as after the first minutes of a run."""

    def __init__(
        self,
        workload: Workload,
        gpus_per_node: int,
        policy: Literal["balanced", "rayReservation"] = "balanced",
    ) -> None:
        """Size the pools of a workload on nodes with so many GPUs."""
        self._rows = workload.batch_rows
        self._gpus_per_node = gpus_per_node
        self.late_drain = policy == "balanced"
        self._options = AllocationOptions(
            policy=policy, buffer_rows=workload.buffer_batches * workload.batch_rows, drain_margin_seconds=0.0
        )

    def targets(self, now: float, pools: Sequence[Pool], free: dict[str, int], doomed: dict[str, float]) -> list[int]:
        """Return replicas by stage, those on doomed nodes included: they work until the end."""
        finite = not math.isinf(pools[0].queued)
        views = [self._view(pool, index, finite=finite) for index, pool in enumerate(pools)]
        nodes = [NodeView(node, self._gpus_per_node) for node in free]
        nodes += [NodeView(node, self._gpus_per_node, deadline=deadline) for node, deadline in doomed.items()]
        found = allocate(views, CapacityView(nodes), now, self._options)
        doomed_replicas = [sum(replica.node in doomed for replica in pool.working) for pool in pools]
        return [target.replicas + more for target, more in zip(found.targets, doomed_replicas, strict=True)]

    def restarts(self) -> bool:
        """Return that replicas live through the loss of a node."""
        return False

    def _view(self, pool: Pool, index: int, *, finite: bool) -> PoolView:
        stage = pool.stage
        endless = index == 0 and not finite
        return PoolView(
            stage=stage.name,
            min_replicas=1,
            max_replicas=1_000_000,
            gpus=stage.gpus,
            cpus=0.0,
            service=Estimate(stage.service_seconds * stage.gpus / self._rows, 1),
            load_seconds=pool.load,
            batch_p95_seconds=Estimate(stage.service_seconds * (1 + JITTER), 1),
            replicas=[_replica(replica, number, self._rows) for number, replica in enumerate(pool.replicas)],
            queued_rows=0 if endless else round(pool.queued * self._rows),
            in_flight_rows=pool.in_work * self._rows,
            finished_rows=pool.finished * self._rows,
            batch_rows=self._rows,
            upstream_done=finite,
        )


def _replica(replica: Replica, number: int, rows: int) -> ReplicaView:
    state: Literal["ready", "loading", "retiring"] = "ready" if replica.ready else "loading"
    if replica.retiring:
        state = "retiring"
    return ReplicaView(str(number), replica.node, state, rows if replica.busy else 0)
