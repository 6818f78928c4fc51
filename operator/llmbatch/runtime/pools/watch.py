"""Watching an execution from inside Ray Data's scheduling loop, and arranging it before its first task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmbatch.runtime.pools.actors import PoolSample, StagePool
from llmbatch.runtime.pools.check import missing_names

CPU_STAGES = ("ChatTemplateStage", "DetokenizeStage", "PrepareMultimodalStage", "TokenizeStage")
"""Actor pools that ray.data.llm puts around an engine; they hold no accelerator."""


@dataclass(frozen=True, slots=True)
class ExecutionSample:
    """The whole execution at one moment."""

    rows_read: int
    """Rows the source has emitted."""
    read_finished: bool
    """Whether the source has emitted all it will."""
    pools: tuple[PoolSample, ...]
    """The stages' pools, in order of the chain."""


class Sizer(Protocol):
    """Decides the sizes of the pools in place of Ray Data's own autoscaler."""

    def take_over(self, executor: Any, pools: Sequence[StagePool]) -> None:
        """Become the executor's autoscaler. Called once, before the first task."""


class PoolMonitor:
    """Watches one execution. `latest` is safe to call from another thread."""

    def __init__(self, sizer: Sizer | None = None) -> None:
        """Watch only, or let `sizer` size the pools."""
        self._sizer = sizer
        self._executor: Any = None
        self._pools: list[StagePool] = []
        self._sample = ExecutionSample(0, False, ())
        self._ended = False
        self._lock = threading.Lock()

    def latest(self) -> ExecutionSample:
        """Return what the last scheduling step saw, before the execution was ended or failed if it was."""
        with self._lock:
            return self._sample

    def begin(self, executor: Any) -> None:
        """Arrange an execution that is about to start."""
        self._executor = executor
        keep_blocks_whole(executor._topology)
        self._pools = [StagePool(op, state) for op, state in executor._topology.items() if _is_stage(op)]
        if self._sizer is not None:
            self._sizer.take_over(executor, self._pools)

    def end(self) -> None:
        """End an execution that is not wanted any more, and with it the iteration of its output."""
        with self._lock:
            self._ended = True
        if self._executor is not None:
            self._executor.shutdown(force=True)

    def observe(self, executor: Any) -> None:
        """Take a sample of the execution."""
        source = list(executor._topology)[1]
        for pool in self._pools:
            pool.account()
        sample = ExecutionSample(
            rows_read=source.metrics.row_outputs_taken,
            read_finished=source.has_execution_finished(),
            pools=tuple(pool.sample() for pool in self._pools),
        )
        with self._lock:
            # A source that was cut off calls itself finished, and what it has read would be taken for all there is:
            # also where that happened since this began.
            if not self._ended:
                self._sample = sample


_watching: list[PoolMonitor] = []
"""The monitor of this process' execution, last. Ray pickles its context with the callback's class and makes the
instance itself, so neither can carry it."""


class Watch:
    """Ray Data's `ExecutionCallback`: hands each scheduling step to the monitor."""

    def before_execution_starts(self, executor: Any) -> None:
        """Change what must be changed before the first task."""
        _watching[-1].begin(executor)

    def on_execution_step(self, executor: Any) -> None:
        """Observe."""
        _watching[-1].observe(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Observe the end."""
        _watching[-1].observe(executor)

    def after_execution_fails(self, _executor: Any, _error: Exception) -> None:
        """See nothing: the operators are cut off by now, and the error reaches the driver by itself."""


def configure_ray_data(monitor: PoolMonitor, reservation_ratio: float) -> None:
    """Set Ray Data's context for a run on capacity that comes and goes, watched by `monitor`.

    Args:
        monitor: Told of every scheduling step.
        reservation_ratio: Share of the resources that Ray Data's own allocator reserves evenly.
    """
    import ray.data

    # Ray Data's own words go to its log file; the terminal belongs to the run's display, which tells the cause of an
    # end in one line where Ray Data prints its stack.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # One block out for one block in: a shard stays one block from stage to stage.
    context.target_max_block_size = None
    # A node that goes while a model loads is no fault of the job.
    context.max_consecutive_actor_init_deaths = 100
    # What a stage or a commit raises reaches the driver as it is: its class says what the user does next.
    context.raise_original_map_exception = True
    # Rows fail one by one, as error rows; a block that fails for the system's sake is run again.
    context.max_errored_blocks = 0
    # Capacity may stay away for hours; that is no reason to fail.
    context.execution_no_progress_timeout_s = -1
    context.op_resource_reservation_ratio = reservation_ratio
    if not missing_names():
        _watching.append(monitor)
        context.custom_execution_callback_classes = [Watch]


def keep_blocks_whole(topology: Any) -> None:
    """Make the source emit one block a shard, as soon as it is cut.

    Ray Data gathers what a read task yields into blocks of 128 MB. The transformer is serialized at the first
    task, so changing it before the execution starts reaches every worker.
    """
    from ray.data._internal.output_buffer import OutputBlockSizeOption

    source = list(topology)[1]
    for transform in source._map_transformer.get_transform_fns():
        transform._output_block_size_option = OutputBlockSizeOption.of(disable_block_shaping=True)


def _is_stage(operator: Any) -> bool:
    if any(name in operator.name for name in CPU_STAGES):
        return False
    return bool(operator.get_autoscaling_actor_pools())
