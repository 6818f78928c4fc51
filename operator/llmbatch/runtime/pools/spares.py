"""Spare processes: on each node with GPUs an idle worker whose imports are done, for the next replica there.

A GPU that changes its stage would wait for a new process and its imports as well as for the model. Ray starts workers
ahead when asked, and takes an idle one for the next actor; what they import is `PRELOADED_MODULES`. A spare holds
no resource, some memory, and is made while no replica is starting.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmbatch.runtime.pools.nodes import RayNode

logger = logging.getLogger(__name__)

KEPT_SECONDS = 3600
"""How long an idle spare lives."""
ANSWER_SECONDS = 10.0
"""A raylet that does not answer by then has more to do than to start a spare."""


SHARED_PAUSE_SECONDS = 8.0
"""Between two spares on nodes that share their processors: one at a time."""


class Spares:
    """Which nodes have one. A tick may ask one node for one."""

    def __init__(self, pause_seconds: float = 0.0) -> None:
        """Start without any, and ask for one in `pause_seconds` at most."""
        self._pause = pause_seconds
        self._next = 0.0
        self._with_spare: set[str] = set()
        self._seen: set[str] = set()
        self._channels: dict[str, Any] = {}

    def tend(self, nodes: Sequence[RayNode], replicas: Mapping[str, str], *, calm: bool, now: float) -> None:
        """Ask for a spare where one is missing.

        Args:
            nodes: Nodes that stay.
            replicas: Node of each replica that has started, by its id.
            calm: Whether no replica is starting: a spare would take the processor from it.
            now: Seconds of a clock that does not go back.
        """
        # A replica that is new took its node's spare.
        self._with_spare -= {node for replica, node in replicas.items() if replica not in self._seen}
        self._seen = set(replicas)
        self._forget((self._with_spare | self._channels.keys()) - {node.id for node in nodes})
        missing = [node for node in nodes if node.gpus and node.id not in self._with_spare]
        if calm and missing and now >= self._next:
            self._next = now + self._pause
            self._ask(missing[0])

    def _forget(self, gone: Collection[str]) -> None:
        self._with_spare -= set(gone)
        for node_id in gone:
            channel = self._channels.pop(node_id, None)
            if channel is not None:
                channel.close()

    def _ask(self, node: RayNode) -> None:
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
        from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

        import ray

        context = ray.get_runtime_context()
        request = PrestartWorkersRequest(
            job_id=bytes.fromhex(context.get_job_id()), num_workers=1, keep_alive_duration_secs=KEPT_SECONDS
        )
        request.runtime_env_info.serialized_runtime_env = context.get_runtime_env_string()
        if node.id not in self._channels:
            self._channels[node.id] = init_grpc_channel(f"{node.address}:{node.port}")
        call = NodeManagerServiceStub(self._channels[node.id]).PrestartWorkers.future(request, timeout=ANSWER_SECONDS)
        call.add_done_callback(_tell)
        self._with_spare.add(node.id)


def _tell(call: Any) -> None:
    if call.exception() is not None:
        logger.debug("no spare process: %s", call.exception())
