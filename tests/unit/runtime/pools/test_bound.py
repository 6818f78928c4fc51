"""The tasks of a stage's replicas, with Ray Data's own operator and pool; its actors are stood in for."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.core.generated.gcs_pb2 import ActorTableData
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.interfaces import BlockEntry, ExecutionResources, RefBundle
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data.block import BlockMetadata

import ray
from llmbatch.runtime.pools import actors
from llmbatch.runtime.pools.actors import StagePool

# Ray Data copies its context field by field, the deprecated ones as well.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")


class Actor:
    """Notes the tasks it is sent."""

    def __init__(self) -> None:
        self.state = ActorTableData.ActorState.ALIVE
        self.tasks: list[Any] = []
        self.submit = MagicMock()
        self.submit.options.return_value.remote = self._take

    def _take(self, *_: Any, **__: Any) -> Any:
        self.tasks.append(MagicMock())
        return self.tasks[-1]

    def _get_local_state(self) -> int:
        return int(self.state)


class Stage:
    """An operator whose two replicas are ready."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cancelled: list[Any] = []
        monkeypatch.setattr(ray, "get", lambda *_, **__: "node")
        monkeypatch.setattr(ray, "cancel", lambda task, **_: self.cancelled.append(task))
        monkeypatch.setattr(actor_pool_map_operator, "get_draining_nodes", dict)
        monkeypatch.setattr(actor_pool_map_operator, "get_actor_locations", lambda _: {})
        monkeypatch.setattr(ActorPoolMapOperator, "_data_context_ref", MagicMock())
        monkeypatch.setattr(RefBundle, "get_preferred_object_locations", lambda _: {})
        context = DataContext.get_current()
        strategy = ActorPoolStrategy(min_size=1, max_size=4)
        self.operator = ActorPoolMapOperator(MagicMock(), InputDataBuffer(context, []), context, strategy)
        self.operator._block_ref_counter = self.operator._output_queue = MagicMock()
        self.first, self.second = Actor(), Actor()
        actors = [self.second, self.first]
        pool = self.operator._actor_pool
        pool._create_actor_fn = lambda *_: (actors.pop(), ray.ObjectRef.from_random(), ExecutionResources(gpu=1))
        self.pool = StagePool(self.operator, MagicMock())
        self.pool.enroll(16)
        self.pool.grow(2, "a test")
        for ready in list(pool._pending_actors):
            pool.pending_to_running(ready)
        self.operator.refresh_state()

    def add_batches(self, count: int) -> None:
        for _ in range(count):
            metadata = BlockMetadata(num_rows=16, size_bytes=100, input_files=None, exec_stats=None)
            block = BlockEntry(ray.ObjectRef.from_random(), metadata)
            self.operator.add_input(RefBundle([block], owns_blocks=False, schema=None), 0)

    def of_first(self) -> Any:
        """Return what the operator knows of the first actor's task."""
        tasks = self.operator._data_tasks.items()
        [index] = [index for index, task in tasks if task.get_waitable() in self.first.tasks]
        return self.operator.metrics._running_tasks[index]

    def lose_first(self) -> None:
        self.first.state = ActorTableData.ActorState.RESTARTING
        self.operator.refresh_state()
        self.pool.reap()

    def finish_one(self) -> None:
        task = next(iter(self.operator._data_tasks.values()))
        task._task_done_callback(RuntimeError("it failed, which ends it as well"), None, None)
        self.pool.reap()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_the_batches_of_a_lost_replica_go_to_one_that_is_free(stage: Stage) -> None:
    stage.add_batches(3)
    assert (len(stage.first.tasks), len(stage.second.tasks)) == (2, 1)
    stage.lose_first()
    assert stage.cancelled == stage.first.tasks
    [left] = stage.pool.replicas()
    # One found room at once, the other waits.
    assert (left.tasks, len(stage.second.tasks)) == (2, 2)
    assert stage.operator.metrics.rows_inputs_of_submitted_tasks == 32
    assert stage.operator.metrics.num_tasks_running == 2
    stage.finish_one()
    assert len(stage.second.tasks) == 3
    assert stage.operator.metrics.rows_inputs_of_submitted_tasks == 48
    assert stage.operator._bundle_queue.num_blocks() == 0


@pytest.mark.parametrize(("size", "cancelled"), [(1_000, 1), (1_000_000, 0)], ids=["small", "large, so lost"])
def test_a_batch_that_has_come_out_is_done_and_not_done_again(stage: Stage, size: int, cancelled: int) -> None:
    stage.add_batches(2)
    running = stage.of_first()
    running.num_outputs, running.num_rows_produced, running.bytes_output = 1, 16, size
    stage.lose_first()
    assert len(stage.cancelled) == cancelled
    assert [replica.tasks for replica in stage.pool.replicas()] == [1]
    assert (len(stage.second.tasks), stage.operator.metrics.num_tasks_finished) == (1, 1)


def test_a_batch_that_has_come_out_in_part_waits_for_its_replica(stage: Stage) -> None:
    stage.add_batches(2)
    running = stage.of_first()
    running.num_outputs, running.num_rows_produced = 1, 8
    stage.lose_first()
    assert stage.cancelled == []
    assert [(replica.restarting, replica.tasks) for replica in stage.pool.replicas()] == [(True, 1), (False, 1)]


def test_small_batches_are_put_together_to_the_size_that_is_asked_for(stage: Stage) -> None:
    stage.pool.bundle(48)
    stage.add_batches(2)
    assert stage.operator.metrics.num_tasks_running == 0
    stage.add_batches(2)
    [task] = stage.operator.metrics._running_tasks.values()
    assert task.inputs.num_rows() == 48


def test_a_shard_with_a_batch_of_rows_waits_for_no_other(stage: Stage) -> None:
    stage.add_batches(1)
    assert stage.operator.metrics.num_tasks_running == 1


def test_the_size_of_rows_is_that_of_what_came_from_upstream(stage: Stage) -> None:
    assert stage.pool.row_bytes() == 0.0
    upstream = stage.operator.input_dependencies[0].metrics
    upstream.rows_task_outputs_generated, upstream.bytes_task_outputs_generated = 4, 1000
    assert stage.pool.row_bytes() == 250.0


def test_what_was_put_together_goes_when_no_more_is_waited_for(stage: Stage) -> None:
    stage.pool.bundle(48)
    stage.add_batches(2)
    metrics = stage.operator.metrics
    stage.pool.bundle(40)
    assert metrics.num_tasks_running == 0
    stage.pool.bundle(0)
    [task] = metrics._running_tasks.values()
    assert task.inputs.num_rows() == 32
    assert metrics.num_tasks_submitted == 1
    assert metrics.obj_store_mem_internal_inqueue_blocks == 0
    stage.add_batches(1)
    assert metrics.num_tasks_running == 2


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_tasks_that_overlap_count_for_as_long_as_each_takes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(actors, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pool = stage.operator._actor_pool
    monkeypatch.setattr(pool, "max_actor_concurrency", lambda: at_once)
    for _ in range(at_once + 1):
        pool.on_task_submitted(stage.first)
    for turn in range(1, 10):
        clock.now = 60.0 * (1 + (turn - 1) / at_once)
        pool.on_task_completed(stage.first)
        pool.on_task_submitted(stage.first)
    assert stage.pool.task_seconds()[at_once:] == pytest.approx([60.0] * (9 - at_once))


def test_nobody_keeps_a_released_actor_alive(stage: Stage) -> None:
    stage.add_batches(2)
    stage.lose_first()
    actor = weakref.ref(stage.first)
    del stage.first
    gc.collect()
    assert actor() is None
