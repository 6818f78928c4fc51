"""One stage's actor pool: what its replicas do, and the levers that Ray Data's own autoscaler lacks.

A replica that retires gets no more tasks and leaves when it has none, busy work is never killed. Its place in the
dispatch heap is rebuilt by Ray Data before every dispatch, so it is kept out where the heap is built.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from llmbatch.runtime.pools.bound import BoundTasks

BATCHES_REMEMBERED = 64
"""Durations kept for the 95th percentile."""


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One stage's actor pool at one moment."""

    ready: int
    """Replicas that take work."""
    pending: int
    """Replicas that wait for resources or load their model."""
    restarting: int
    """Replicas that lost their node."""
    retiring: int
    """Replicas that finish what they have and leave."""
    queued_rows: int
    """Rows that arrived at the stage, or wait before it, and are in no replica."""
    in_flight_rows: int
    """Rows inside the replicas."""
    rows_completed: int
    """Rows the stage handed on since the execution began."""
    busy_seconds: float
    """Seconds that replicas had at least one task, summed over them, since the execution began."""
    load_seconds: float | None
    """Mean time from the creation of a replica until it was ready; None before the first was."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One actor of a pool."""

    id: str
    """Ray Data's logical id: it outlives a restart."""
    node: str | None
    """Ray's hex id of its node; None while it has none."""
    pending: bool
    """Waits for resources or loads its model for the first time."""
    restarting: bool
    """Lost its node, and starts again elsewhere."""
    retiring: bool
    """Gets no more tasks."""
    tasks: int
    """Tasks bound to it."""
    age_seconds: float
    """Since it was created or, once it is ready, since then."""


class StagePool:
    """A stage's operator and its actor pool."""

    def __init__(self, operator: Any, state: Any) -> None:
        """Wrap an operator of a topology, and its state."""
        self.operator = operator
        self._state = state
        [self._pool] = operator.get_autoscaling_actor_pools()
        self._retiring: frozenset[str] = frozenset()
        self._since: dict[str, float] = {}
        self._submitted: dict[Any, deque[float]] = {}
        self._task_seconds: deque[float] = deque(maxlen=BATCHES_REMEMBERED)
        self._load_seconds: list[float] = []
        self._torn_nodes: set[str] = set()
        self._busy_seconds = 0.0
        self._accounted = time.monotonic()
        self._time_loads(self._pool)

    def enroll(self, least_task_rows: int) -> None:
        """Take the pool's size out of Ray Data's hands, and let shards go once they have so many rows together.

        Before the first task. Ray Data would gather a whole shard's rows, and a short one would wait for others.
        """
        pool = self._pool
        pool.min_size = pool.initial_size = lambda: 0
        self._keep_retiring_out(pool)
        self._time_tasks(pool)
        self._least_task_rows = self._bundling()._min_rows_per_bundle = least_task_rows
        self._bound = BoundTasks(self.operator, pool)

    def account(self) -> None:
        """Count the time since the last call for the replicas that work. At every scheduling step.

        Tasks of a replica may overlap, so their own durations do not add up to its.
        """
        now = time.monotonic()
        states = self._pool._running_actors.values()
        busy = sum(state.num_tasks_in_flight > 0 and not state.is_restarting for state in states)
        self._busy_seconds += busy * (now - self._accounted)
        self._accounted = now

    def sample(self) -> PoolSample:
        """Return how the pool stands."""
        info = self.operator.get_actor_info()
        metrics = self.operator.metrics
        submitted = metrics.rows_inputs_of_submitted_tasks
        done = metrics.rows_task_outputs_generated
        retiring = sum(replica.retiring and not replica.restarting for replica in self.replicas())
        return PoolSample(
            ready=max(0, info.running - info.restarting - retiring),
            pending=info.pending,
            restarting=info.restarting,
            retiring=retiring,
            queued_rows=max(0, self._rows_from_upstream() - submitted),
            in_flight_rows=max(0, submitted - done),
            rows_completed=done,
            busy_seconds=self._busy_seconds,
            load_seconds=fmean(self._load_seconds) if self._load_seconds else None,
        )

    def replicas(self) -> list[Replica]:
        """Return the pool's replicas."""
        return [*self._running(), *self._pending()]

    def rows_per_task(self) -> float:
        """Return the mean rows of a task so far; 0 before the first."""
        metrics = self.operator.metrics
        tasks = metrics.num_tasks_submitted
        return metrics.rows_inputs_of_submitted_tasks / tasks if tasks else 0.0

    def row_bytes(self) -> float:
        """Return the mean size of the rows that arrived so far; 0 before the first."""
        metrics = self.operator.input_dependencies[0].metrics
        rows = metrics.rows_task_outputs_generated
        return metrics.bytes_task_outputs_generated / rows if rows else 0.0

    def task_seconds(self) -> list[float]:
        """Return how long the last tasks took inside a replica."""
        return list(self._task_seconds)

    def load_seconds(self) -> list[float]:
        """Return how long each replica took from its creation until it was ready, in order."""
        return list(self._load_seconds)

    def tasks_in_turn(self) -> int:
        """Return how many tasks may be bound to a replica for each of those it works on at a time."""
        pool = self._pool
        return max(1, int(pool.max_tasks_in_flight_per_actor()) // max(1, int(pool.max_actor_concurrency())))

    def nodes_that_took_work_along(self) -> frozenset[str]:
        """Return the nodes that went with tasks of this stage on them, by Ray's hex id."""
        return frozenset(self._torn_nodes)

    def inputs_done(self) -> bool:
        """Tell whether nothing will come from upstream any more."""
        return all(upstream.has_completed() for upstream in self.operator.input_dependencies)

    def done(self) -> bool:
        """Tell whether the stage has nothing left to do."""
        return bool(self.operator.has_execution_finished() or self.operator.has_completed())

    def grow(self, count: int, reason: str) -> None:
        """Create replicas."""
        from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest

        self._pool.scale(ActorPoolScalingRequest.upscale(delta=count, reason=reason))

    def bundle(self, rows: int) -> None:
        """Put waiting shards together to tasks of so many rows; those that are together already go when they are more.

        Ray Data looks at what it gathers when something arrives, and that may take long.
        """
        operator = self.operator
        self._bundling()._min_rows_per_bundle = max(self._least_task_rows, rows)
        gathered = operator._block_ref_bundler
        if 0 < gathered.num_rows() >= rows:
            gathered.finalize()
            bundle, shards = gathered.get_next_with_original()
            for shard in shards:
                operator.metrics.on_input_dequeued(shard, input_index=0)
            operator._try_schedule_task(bundle, strict=False)

    def _bundling(self) -> Any:
        return self.operator._block_ref_bundler._strategy

    def cancel(self, ids: Collection[str]) -> None:
        """Give up replicas that are not ready yet.

        They are killed: a mere release waits for their first call, and with it for a GPU and a whole load.
        """
        import ray

        pool = self._pool
        for ref, actor in list(pool._pending_actors.items()):
            if pool._get_actor_logical_id(actor) in ids:
                # Ray Data removes the first pending actor; this makes it the one that is meant.
                pool._pending_actors = {ref: actor, **pool._pending_actors}
                if pool._try_remove_pending_actor():
                    ray.kill(actor)

    def retire(self, ids: Collection[str]) -> None:
        """Let exactly these replicas get no more tasks; one that is left out again serves on."""
        self._retiring = frozenset(ids)

    def reap(self) -> None:
        """Release what holds a place without use: retired replicas without tasks, and those that lost their node.

        A lost replica's tasks go to the others; what it would cost to start again, a new one costs where it is wanted.
        """
        pool = self._pool
        for actor, state in list(pool._running_actors.items()):
            if state.is_restarting and state.num_tasks_in_flight:
                self._submitted.pop(actor, None)
                self._torn_nodes.add(state.actor_location)
                self._bound.take_back(actor)
            leaves = state.is_restarting or self._id(actor) in self._retiring
            if leaves and state.num_tasks_in_flight == 0:
                pool._release_running_actor(actor)
                self._submitted.pop(actor, None)
        self._bound.dispatch()

    def _running(self) -> Iterator[Replica]:
        for actor, state in self._pool._running_actors.items():
            replica_id = self._id(actor)
            yield Replica(
                id=replica_id,
                node=state.actor_location,
                pending=False,
                restarting=state.is_restarting,
                retiring=replica_id in self._retiring,
                tasks=state.num_tasks_in_flight,
                age_seconds=self._age(replica_id),
            )

    def _pending(self) -> Iterator[Replica]:
        for actor in self._pool._pending_actors.values():
            replica_id = self._id(actor)
            yield Replica(
                id=replica_id,
                node=None,
                pending=True,
                restarting=False,
                retiring=False,
                tasks=0,
                age_seconds=self._age(replica_id),
            )

    def _id(self, actor: Any) -> str:
        return str(self._pool._get_actor_logical_id(actor))

    def _age(self, replica_id: str) -> float:
        now = time.monotonic()
        return now - self._since.setdefault(replica_id, now)

    def _rows_from_upstream(self) -> int:
        metrics = self.operator.input_dependencies[0].metrics
        return int(metrics.rows_task_outputs_generated)

    def _keep_retiring_out(self, pool: Any) -> None:
        update_rank = pool._update_rank

        def without_retiring(actor: Any, state: Any, died: bool) -> None:
            update_rank(actor=actor, state=state, died=died or self._id(actor) in self._retiring)

        pool._update_rank = without_retiring

    def _time_tasks(self, pool: Any) -> None:
        on_submitted, on_completed = pool.on_task_submitted, pool.on_task_completed

        def submitted(actor: Any) -> None:
            self._submitted.setdefault(actor, deque()).append(time.monotonic())
            on_submitted(actor)

        def completed(actor: Any) -> None:
            now = time.monotonic()
            started = self._submitted.get(actor)
            if started:
                self._task_seconds.append(now - started.popleft())
                at_once = max(1, int(pool.max_actor_concurrency()))
                if len(started) >= at_once:
                    # This one waited behind those in work and the one that ended: its time in the replica begins now.
                    started[at_once - 1] = max(started[at_once - 1], now)
            on_completed(actor)

        pool.on_task_submitted, pool.on_task_completed = submitted, completed

    def _time_loads(self, pool: Any) -> None:
        pending_to_running = pool.pending_to_running

        def became_ready(ready_ref: Any) -> Any:
            actor = pending_to_running(ready_ref)
            if actor is not None:
                replica_id = self._id(actor)
                now = time.monotonic()
                self._load_seconds.append(now - self._since.get(replica_id, now))
                self._since[replica_id] = now
            return actor

        pool.pending_to_running = became_ready
