"""The one module that touches Ray Data's private names: it watches the actor pools of a running execution.

Written and tested against Ray 2.60. `check_ray` verifies every private name before a run begins; when one is
missing the run goes on with Ray Data's own behaviour and without pool figures, and Progress says so.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

RATE_WINDOW_SECONDS = 10.0
"""Rates are means over this long, as Progress says."""
CPU_STAGES = ("ChatTemplateStage", "DetokenizeStage", "PrepareMultimodalStage", "TokenizeStage")
"""Actor pools that ray.data.llm puts around an engine; they hold no accelerator."""


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One stage's actor pool at one moment."""

    ready: int
    """Replicas that take work."""
    pending: int
    """Replicas that wait for resources or load their model."""
    restarting: int
    """Replicas that lost their node."""
    queued_rows: int
    """Rows that arrived at the stage, or wait before it, and are in no replica."""
    in_flight_rows: int
    """Rows inside the replicas."""
    rows_completed: int
    """Rows the stage handed on since the execution began."""
    busy_seconds: float
    """Replica-seconds spent in finished tasks since the execution began."""


@dataclass(frozen=True, slots=True)
class ExecutionSample:
    """The whole execution at one moment."""

    rows_read: int
    """Rows the source has emitted."""
    read_finished: bool
    """Whether the source has emitted all it will."""
    pools: tuple[PoolSample, ...]
    """The stages' pools, in order of the chain."""


def check_ray() -> str:
    """Return an empty string if this Ray has every private name used here, else what is missing."""
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
        from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics
        from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
        from ray.data._internal.execution.operators.map_operator import MapOperator
        from ray.data._internal.execution.operators.map_transformer import MapTransformer
        from ray.data._internal.execution.streaming_executor_state import OpState
        from ray.data._internal.output_buffer import OutputBlockSizeOption
    except ImportError as error:
        return str(error)
    needed: tuple[tuple[type, tuple[str, ...]], ...] = (
        (ExecutionCallback, ("before_execution_starts", "on_execution_step", "after_execution_succeeds")),
        (ActorPoolMapOperator, ("get_autoscaling_actor_pools", "get_actor_info")),
        (MapOperator, ("has_execution_finished", "metrics")),
        (MapTransformer, ("get_transform_fns",)),
        (OpState, ("total_enqueued_input_blocks",)),
        (OutputBlockSizeOption, ("of",)),
        (OpRuntimeMetrics, ("on_task_finished",)),
    )
    missing = [f"{owner.__name__}.{name}" for owner, names in needed for name in names if not hasattr(owner, name)]
    return ", ".join(missing)


def configure_ray_data(monitor: PoolMonitor) -> None:
    """Set Ray Data's context for a run on capacity that comes and goes, watched by `monitor`."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # One block out for one block in: a shard stays one block from stage to stage.
    context.target_max_block_size = None
    # A node that goes while a model loads is no fault of the job.
    context.max_consecutive_actor_init_deaths = 100
    # Rows fail one by one, as error rows; a block that fails for the system's sake is run again.
    context.max_errored_blocks = 0
    if not check_ray():
        _watching.append(monitor)
        context.custom_execution_callback_classes = [Watch]


@dataclass(slots=True)
class PoolMonitor:
    """Watches one execution from inside its scheduling loop. Thread-safe to read."""

    _sample: ExecutionSample = field(default_factory=lambda: ExecutionSample(0, False, ()))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def latest(self) -> ExecutionSample:
        """Return what the last scheduling step saw."""
        with self._lock:
            return self._sample

    def observe(self, topology: Any) -> None:
        """Take a sample of the execution's operators."""
        sample = sample_topology(topology)
        with self._lock:
            self._sample = sample


_watching: list[PoolMonitor] = []
"""The monitor of this process' execution, last. Ray pickles its context with the callback's class and makes the
instance itself, so neither can carry it."""


class Watch:
    """Ray Data's `ExecutionCallback`: hands each scheduling step to the monitor."""

    def before_execution_starts(self, executor: Any) -> None:
        """Change what must be changed before the first task."""
        keep_blocks_whole(executor._topology)

    def on_execution_step(self, executor: Any) -> None:
        """Observe."""
        _watching[-1].observe(executor._topology)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Observe the end."""
        _watching[-1].observe(executor._topology)

    def after_execution_fails(self, executor: Any, _error: Exception) -> None:
        """Observe the end; the error reaches the driver by itself."""
        _watching[-1].observe(executor._topology)


def keep_blocks_whole(topology: Any) -> None:
    """Make the source emit one block a shard, as soon as it is cut.

    Ray Data gathers what a read task yields into blocks of 128 MB. The transformer is serialized at the first
    task, so changing it before the execution starts reaches every worker.
    """
    from ray.data._internal.output_buffer import OutputBlockSizeOption

    source = _operators(topology)[1]
    for transform in source._map_transformer.get_transform_fns():
        transform._output_block_size_option = OutputBlockSizeOption.of(disable_block_shaping=True)


def sample_topology(topology: Any) -> ExecutionSample:
    """Read rows, queues and replicas off the operators of an execution."""
    operators = _operators(topology)
    source = operators[1]
    stages = [operator for operator in operators if _is_stage(operator)]
    return ExecutionSample(
        rows_read=source.metrics.row_outputs_taken,
        read_finished=source.has_execution_finished(),
        pools=tuple(_sample_pool(operator) for operator in stages),
    )


def _operators(topology: Any) -> list[Any]:
    return list(topology)


def _is_stage(operator: Any) -> bool:
    if any(name in operator.name for name in CPU_STAGES):
        return False
    return bool(operator.get_autoscaling_actor_pools())


def _sample_pool(operator: Any) -> PoolSample:
    info = operator.get_actor_info()
    metrics = operator.metrics
    upstream = operator.input_dependencies[0].metrics
    submitted = metrics.rows_inputs_of_submitted_tasks
    done = metrics.rows_task_outputs_generated
    return PoolSample(
        ready=info.running,
        pending=info.pending,
        restarting=info.restarting,
        queued_rows=max(0, upstream.rows_task_outputs_generated - submitted),
        in_flight_rows=max(0, submitted - done),
        rows_completed=done,
        busy_seconds=metrics.task_worker_completion_time_s,
    )


@dataclass(slots=True)
class Rate:
    """A counter's growth a second, over the last `RATE_WINDOW_SECONDS`."""

    _points: deque[tuple[float, float]] = field(default_factory=deque)

    def update(self, now: float, value: float) -> float:
        """Add one reading (seconds, count) and return the growth a second."""
        self._points.append((now, value))
        while len(self._points) > 2 and now - self._points[1][0] >= RATE_WINDOW_SECONDS:
            self._points.popleft()
        then, before = self._points[0]
        return (value - before) / (now - then) if now > then else 0.0
