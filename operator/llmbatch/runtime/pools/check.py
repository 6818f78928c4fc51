"""Does this Ray have every private name that the pools rest on?"""

from __future__ import annotations


def missing_names() -> str:
    """Return an empty string if this Ray has every private name used here, else what is missing."""
    try:
        from ray._private import grpc_utils
        from ray._private.state import state
        from ray._raylet import InnerGcsClient  # type: ignore[attr-defined]
        from ray.core.generated.common_pb2 import NodeDeathInfo
        from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsService
        from ray.data._internal.actor_autoscaler import ActorAutoscaler, ActorPoolScalingRequest
        from ray.data._internal.execution.bundle_queue.bundler import EstimateSize, RebundleQueue
        from ray.data._internal.execution.execution_callback import ExecutionCallback
        from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics, RunningTaskInfo
        from ray.data._internal.execution.interfaces.physical_operator import DataOpTask
        from ray.data._internal.execution.operators.actor_pool_map_operator import (
            ActorPoolMapOperator,
            _ActorPool,
            _ActorState,
            _NodeAwareActorPool,
        )
        from ray.data._internal.execution.operators.map_operator import MapOperator
        from ray.data._internal.execution.operators.map_transformer import MapTransformer, MapTransformFn
        from ray.data._internal.execution.streaming_executor import StreamingExecutor
        from ray.data._internal.execution.streaming_executor_state import OpState
        from ray.data._internal.output_buffer import OutputBlockSizeOption
    except ImportError as error:
        return str(error)
    needed: tuple[tuple[object, tuple[str, ...]], ...] = (
        (ActorAutoscaler, ("try_trigger_scaling",)),
        (
            ActorPoolMapOperator,
            (
                "_submit_data_task",
                "_try_schedule_task",
                "_try_schedule_tasks_internal",
                "get_actor_info",
                "get_autoscaling_actor_pools",
            ),
        ),
        (ActorPoolScalingRequest, ("upscale",)),
        (DataOpTask, ("get_waitable", "has_pending_emits", "is_drained", "mark_done", "pending_block_ref")),
        (ExecutionCallback, ("before_execution_starts", "on_execution_step", "after_execution_succeeds")),
        (InnerGcsClient, ("drain_node",)),
        (MapOperator, ("has_execution_finished", "metrics")),
        (MapTransformer, ("get_transform_fns",)),
        (NodeDeathInfo, ("UNEXPECTED_TERMINATION",)),
        (NodeInfoGcsService, ("UnregisterNode",)),
        (
            OpRuntimeMetrics,
            (
                "bytes_inputs_of_submitted_tasks",
                "bytes_task_outputs_generated",
                "num_tasks_running",
                "num_tasks_submitted",
                "on_input_dequeued",
                "on_input_queued",
                "on_task_finished",
                "row_outputs_taken",
                "rows_inputs_of_submitted_tasks",
                "rows_task_outputs_generated",
            ),
        ),
        (OpState, ("total_enqueued_input_blocks",)),
        (OutputBlockSizeOption, ("of",)),
        (RebundleQueue, ("finalize", "get_next_with_original", "num_rows")),
        (grpc_utils, ("init_grpc_channel",)),
        (state, ("get_draining_nodes",)),
        (
            _NodeAwareActorPool,
            (
                "_get_actor_logical_id",
                "_release_running_actor",
                "_try_remove_pending_actor",
                "_update_rank",
                "initial_size",
                "max_actor_concurrency",
                "max_tasks_in_flight_per_actor",
                "min_size",
                "on_task_completed",
                "on_task_submitted",
                "pending_to_running",
                "scale",
            ),
        ),
    )
    missing = [_name(owner, name) for owner, names in needed for name in names if not hasattr(owner, name)]
    assigned = (
        (ActorPoolMapOperator, "__init__", ("_bundle_queue",)),
        (EstimateSize, "__init__", ("_min_rows_per_bundle",)),
        (
            MapOperator,
            "__init__",
            ("_block_ref_bundler", "_data_tasks", "_map_transformer", "_next_data_task_idx", "_output_queue"),
        ),
        (MapTransformFn, "__init__", ("_output_block_size_option",)),
        (OpRuntimeMetrics, "__init__", ("_pending_task_inputs", "_running_tasks")),
        (RebundleQueue, "__init__", ("_strategy",)),
        (StreamingExecutor, "execute", ("_actor_autoscaler", "_resource_manager", "_topology")),
        (_ActorPool, "__init__", ("_pending_actors", "_running_actors")),
    )
    missing += [_name(owner, name) for owner, at, names in assigned for name in names if not _assigns(owner, at, name)]
    fields = (
        (RunningTaskInfo, ("bytes_output", "inputs", "num_outputs", "num_rows_produced")),
        (_ActorState, ("actor_location", "is_restarting", "num_tasks_in_flight")),
    )
    missing += [
        _name(owner, name)
        for owner, names in fields
        for name in names
        if name not in getattr(owner, "__dataclass_fields__", {})
    ]
    return ", ".join(missing)


def _assigns(owner: type, method: str, name: str) -> bool:
    """Tell whether a method of the class gives its instances an attribute. One that nobody reads would do nothing."""
    return name in getattr(owner, method).__code__.co_names


def _name(owner: object, name: str) -> str:
    return f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
