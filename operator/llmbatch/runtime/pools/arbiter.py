"""The arbiter: on every tick it shows the pools and the nodes to `allocate`, and makes the pools what it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmbatch.api.capacity import Capacity
from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.api.progress import Drains
from llmbatch.core.stages.allocate import allocate
from llmbatch.core.stages.balance import staying
from llmbatch.core.stages.bundle import task_rows
from llmbatch.core.stages.model import (
    Allocation,
    AllocationOptions,
    CapacityView,
    NodeView,
    PoolView,
    ReplicaView,
    Target,
)
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.pools.actors import Replica, StagePool
from llmbatch.runtime.pools.drains import DrainTally, NodeErrand
from llmbatch.runtime.pools.estimates import StageEstimates
from llmbatch.runtime.pools.nodes import RayNode, declare_dead, doomed_nodes, drain, live_nodes, lost_nodes
from llmbatch.runtime.pools.room import Room, missing_replicas
from llmbatch.runtime.pools.spares import SHARED_PAUSE_SECONDS, Spares

TICK_SECONDS = 0.5
"""Pools change no faster than this: Ray starts an actor in a second at best."""
DEATH_PAUSE_SECONDS = 5.0
"""A node that is said to be lost and still answers is asked no more often."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the arbiter last decided, for Progress. Tuples are by stage."""

    gpus: int
    """GPUs in the Ray cluster."""
    useful_gpus: int
    """GPUs the job could use now."""
    targets: tuple[int, ...]
    """Replicas each stage should have on nodes that stay."""
    explanations: tuple[str, ...]
    """Why, in words."""
    stall_reason: str
    """Why nothing moves, if nothing moves."""
    drains: Drains
    """How workers on notice went."""


@dataclass(frozen=True, slots=True)
class Move:
    """Replicas that leave, so that a replica of the stage at a position finds its GPUs on one node."""

    stage: int
    leaving: frozenset[str]


class Arbiter:
    """Sizes the stages' pools. `latest` is safe to call from another thread."""

    def __init__(
        self,
        spec: LLMBatchJobSpec,
        policy: Literal["balanced", "rayReservation"],
        desired: Desired,
        most_starting: int | None = None,
    ) -> None:
        """Size the pools of `spec`'s stages by `policy`, with what `desired` says of the capacity.

        `most_starting` replicas start at a time: where nodes share a machine's processors each waits for the others.
        """
        self._stages = spec.stages
        self._shard_rows = spec.shard_rows
        self._desired = desired
        self._most_starting = most_starting
        self._options = AllocationOptions(policy=policy, reservation_ratio=spec.allocation.reservation_ratio)
        self._estimates = [StageEstimates(stage) for stage in spec.stages]
        self._pools: Sequence[StagePool] = ()
        self._next_tick = 0.0
        self._move: Move | None = None
        self._spares = Spares(0.0 if most_starting is None else SHARED_PAUSE_SECONDS)
        self._drains = NodeErrand(drain)
        self._deaths = NodeErrand(declare_dead, DEATH_PAUSE_SECONDS)
        self._tally = DrainTally()
        self._decision: Decision | None = None
        self._lock = threading.Lock()

    def latest(self) -> Decision | None:
        """Return the last decision; None before the first."""
        with self._lock:
            return self._decision

    def take_over(self, executor: Any, pools: Sequence[StagePool]) -> None:
        """Become the executor's autoscaler."""
        from ray.data._internal.actor_autoscaler import ActorAutoscaler

        self._pools = pools
        for stage, pool in zip(self._stages, pools, strict=True):
            pool.enroll(min(stage.batch_size, self._shard_rows))
        arbiter = self

        class Autoscaler(ActorAutoscaler):  # type: ignore[misc]
            """Ray Data asks it at every scheduling step."""

            def try_trigger_scaling(self) -> None:
                """Size the pools."""
                arbiter.step()

        executor._actor_autoscaler = Autoscaler(executor._topology, executor._resource_manager)

    def step(self) -> None:
        """Let go of what may leave, and decide anew once a tick."""
        for pool in self._pools:
            pool.reap()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._tick(time.time())

    def _tick(self, now: float) -> None:
        nodes = live_nodes()
        capacity = self._desired.latest()
        doomed = doomed_nodes(nodes, capacity, now)
        views = tuple(map(self._view, self._stages, self._pools, self._estimates))
        seen = CapacityView(
            nodes=tuple(_node_view(node, doomed.get(node.id)) for node in nodes),
            gpus_arriving=capacity.gpus_arriving,
            gpus_granted=capacity.gpus_granted,
        )
        # In a pause nothing enters the chain, and the GPUs of its first stage are for what is in it.
        allowed = (views[0].closed(), *views[1:]) if capacity.pause else views
        allocation = allocate(allowed, seen, now, self._options)
        self._move = self._unfinished_move(views, seen, allocation.targets)
        self._retire(allocation)
        for pool, target in zip(self._pools, allocation.targets, strict=True):
            pool.cancel(target.retire)
        lost = lost_nodes(nodes, capacity)
        self._bury(lost)
        empty = doomed.keys() - self._busy()
        self._drain({node: doomed[node] for node in empty - {one.id for one in lost}})
        announced = doomed_nodes(nodes, _without_lost(capacity), now)
        self._tally.update(doomed, announced, {node.id for node in nodes}, empty, self._torn(), now)
        self._bundle(views)
        self._grow(views, seen, allocation)
        self._tend_spares([node for node in nodes if node.id not in doomed and not node.draining])
        self._publish(nodes, allocation)

    def _view(self, stage: Stage, pool: StagePool, estimates: StageEstimates) -> PoolView:
        sample = pool.sample()
        estimates.update(pool, sample)
        rows_per_task = pool.rows_per_task() or float(self._shard_rows)
        return PoolView(
            stage=stage.name,
            min_replicas=stage.replicas.min,
            max_replicas=stage.replicas.max,
            gpus=stage.resources.gpus,
            cpus=stage.resources.cpus,
            accelerator=stage.resources.accelerator or "",
            replicas=tuple(_replica_view(replica, rows_per_task) for replica in pool.replicas()),
            queued_rows=sample.queued_rows,
            in_flight_rows=sample.in_flight_rows,
            finished_rows=sample.rows_completed,
            batch_rows=max(1, round(rows_per_task)),
            upstream_done=pool.inputs_done(),
            done=pool.done(),
            service=estimates.service,
            load_seconds=estimates.load,
            batch_p95_seconds=estimates.bound_seconds,
        )

    def _bundle(self, views: Sequence[PoolView]) -> None:
        for pool, view in zip(self._pools, views, strict=True):
            ready = sum(replica.state == "ready" for replica in view.replicas)
            seconds = view.service.value / max(1, view.gpus)
            pool.bundle(task_rows(seconds, view.queued_rows, ready, pool.row_bytes()))

    def _grow(self, views: Sequence[PoolView], capacity: CapacityView, allocation: Allocation) -> None:
        """Start what is missing, but no more than finds room now: a replica that waits for a GPU gets in the way."""
        room = Room(views, capacity)
        starting = sum(replica.pending for pool in self._pools for replica in pool.replicas())
        for index in missing_replicas(views, capacity, allocation.targets):
            if self._most_starting is not None and starting >= self._most_starting:
                return
            if self._takes_the_place(views, index):
                continue
            if room.take(views[index]):
                starting += 1
                self._pools[index].grow(1, allocation.targets[index].explanation)
            elif moved := room.in_the_way(views[index], views):
                self._move = Move(index, moved)
                self._retire(allocation)
                return
            elif self._move is not None and self._move.stage == index and not self._move.leaving:
                self._move = None

    def _unfinished_move(
        self, views: Sequence[PoolView], capacity: CapacityView, targets: Sequence[Target]
    ) -> Move | None:
        """Return the move that goes on: whoever has work leaves late, and the place is still wanted."""
        if self._move is None or self._move.stage not in missing_replicas(views, capacity, targets):
            return None
        there = {view.replicas[position].id for view in views for position in staying(view, capacity)}
        return replace(self._move, leaving=self._move.leaving & there)

    def _takes_the_place(self, views: Sequence[PoolView], index: int) -> bool:
        """Tell whether a stage's replica could start where others make room for a larger one.

        A stage without any replica is not held up by them: they may have minutes of work left.
        """
        if self._move is None:
            return False
        stage, larger = views[index], views[self._move.stage]
        apart = bool(stage.accelerator and larger.accelerator) and stage.accelerator != larger.accelerator
        starved = bool(self._move.leaving) and not stage.replicas
        return 0 < stage.gpus < larger.gpus and not apart and not starved

    def _retire(self, allocation: Allocation) -> None:
        """Let replicas leave: those that are not wanted, and those that another tick starts again elsewhere."""
        moved = frozenset[str]() if self._move is None else self._move.leaving
        for pool, target in zip(self._pools, allocation.targets, strict=True):
            pool.retire(target.retire | moved)

    def _tend_spares(self, nodes: Sequence[RayNode]) -> None:
        replicas = [replica for pool in self._pools for replica in pool.replicas()]
        started = {replica.id: replica.node for replica in replicas if replica.node and not replica.restarting}
        calm = not any(replica.pending or replica.restarting for replica in replicas)
        self._spares.tend(nodes, started, calm=calm, now=time.monotonic())

    def _busy(self) -> set[str | None]:
        """Return the nodes on which replicas work."""
        return {replica.node for pool in self._pools for replica in pool.replicas() if replica.tasks}

    def _torn(self) -> set[str]:
        """Return the nodes that went while replicas worked there."""
        return {node for pool in self._pools for node in pool.nodes_that_took_work_along()}

    def _bury(self, lost: Sequence[RayNode]) -> None:
        """Tell Ray of nodes that are gone: what is bound to them waits until it knows."""
        for node in lost:
            self._deaths.ask(node.id, f"{node.address}:{node.port}")

    def _drain(self, empty: dict[str, float]) -> None:
        """Tell Ray of nodes that go, once nothing works there: Ray sends no task to a node that drains."""
        for node_id, deadline in empty.items():
            self._drains.ask(node_id, deadline, "preemption notice")

    def _publish(self, nodes: Sequence[RayNode], allocation: Allocation) -> None:
        decision = Decision(
            gpus=round(sum(node.gpus for node in nodes)),
            useful_gpus=allocation.useful_gpus,
            targets=tuple(target.replicas for target in allocation.targets),
            explanations=tuple(target.explanation for target in allocation.targets),
            stall_reason=allocation.stall_reason,
            drains=self._tally.counts(),
        )
        with self._lock:
            self._decision = decision


def _without_lost(capacity: Capacity) -> Capacity:
    """Leave out the workers that are gone already: nothing was announced that a drain could have met."""
    return capacity.model_copy(update={"doomed": tuple(one for one in capacity.doomed if one.kind != "lost")})


def _replica_view(replica: Replica, rows_per_task: float) -> ReplicaView:
    state: Literal["ready", "loading", "restarting", "retiring"] = "ready"
    if replica.pending:
        state = "loading"
    elif replica.restarting:
        state = "restarting"
    elif replica.retiring:
        state = "retiring"
    return ReplicaView(
        id=replica.id,
        node=replica.node,
        state=state,
        in_flight_rows=round(replica.tasks * rows_per_task),
        age_seconds=replica.age_seconds,
    )


def _node_view(node: RayNode, deadline: float | None) -> NodeView:
    return NodeView(
        id=node.id,
        gpus=round(node.gpus),
        cpus=node.cpus,
        accelerator=node.accelerator or "",
        deadline=deadline,
        draining_now=node.draining,
    )
