"""The nodes of the Ray cluster: which there are, draining one for certain, and declaring one dead."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from llmbatch.api.capacity import Capacity, DoomedWorker
from llmbatch.errors import TransientError

PREEMPTION = 2
"""`DRAIN_NODE_REASON_PREEMPTION` of Ray's autoscaler.proto: always accepted, and restarts after it are not counted."""

ANSWER_SECONDS = 2.0
"""A node that is said to be lost and is silent for so long is dead."""
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""What Ray asks its raylets as well."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """One live node."""

    id: str
    """Ray's hex id."""
    address: str
    """Its IP address."""
    port: int
    """Where its raylet listens."""
    hostname: str
    """Its host name: in Kubernetes the pod's name."""
    gpus: float
    """GPUs it has."""
    cpus: float
    """CPUs it hands out."""
    accelerator: str | None
    """Accelerator type by Ray's name."""
    draining: bool
    """Whether Ray drains it."""


def live_nodes() -> list[RayNode]:
    """Return the nodes that Ray holds for alive. A dead one may be among them for some seconds."""
    from ray._private.state import state

    import ray

    draining = state.get_draining_nodes()
    return [_node(node, node["NodeID"] in draining) for node in ray.nodes() if node["Alive"]]


def _node(node: dict[str, Any], draining: bool) -> RayNode:
    resources = node["Resources"]
    types = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return RayNode(
        id=node["NodeID"],
        address=node["NodeManagerAddress"],
        port=node["NodeManagerPort"],
        hostname=node["NodeManagerHostname"],
        gpus=resources.get("GPU", 0.0),
        cpus=resources.get("CPU", 0.0),
        accelerator=types[0] if types else None,
        draining=draining,
    )


def doomed_nodes(nodes: list[RayNode], capacity: Capacity, now: float) -> dict[str, float]:
    """Return the deadline (Unix seconds) of each node that a notice speaks of, by Ray's id.

    A worker that drains without a deadline, and one that is lost though Ray has not seen it, is due now.
    """
    found: dict[str, float] = {}
    for worker in capacity.doomed:
        for node in nodes:
            if _is(node, worker):
                deadline = now if worker.deadline is None or worker.kind == "lost" else worker.deadline
                found[node.id] = min(deadline, found.get(node.id, deadline))
    return found


def lost_nodes(nodes: list[RayNode], capacity: Capacity) -> list[RayNode]:
    """Return the nodes that are gone, as the capacity says, though Ray holds them for alive."""
    lost = [worker for worker in capacity.doomed if worker.kind == "lost"]
    return [node for node in nodes if any(_is(node, worker) for worker in lost)]


def _is(node: RayNode, worker: DoomedWorker) -> bool:
    if worker.ray_node_id is not None:
        return node.id == worker.ray_node_id
    if worker.address is not None:
        return node.address == worker.address
    return node.hostname == worker.worker or node.id == worker.worker


def drain(node_id: str, deadline: float, why: str) -> None:
    """Tell Ray that a node goes, and make sure that it heard.

    Ray accepts a drain of an id that it does not know and drains nothing, so the answer alone proves nothing. For a
    node that has fallen silent it answers only when it holds the node for dead, after 15 s or more.

    Raises:
        TransientError: Ray does not list the node as draining afterwards.
    """
    from ray._private.state import state
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    import ray

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    milliseconds = int(max(deadline, time.time() + 1.0) * 1000)
    try:
        accepted, refusal = client.drain_node(node_id, PREEMPTION, why, milliseconds)
    except ray.exceptions.RaySystemError as error:
        # The answer for a node that dies while it is asked.
        accepted, refusal = False, str(error)
    if not ray.is_initialized():
        # The run has ended meanwhile, and `ray.nodes()` would start another Ray.
        return
    gone = all(node["NodeID"] != node_id or not node["Alive"] for node in ray.nodes())
    if not gone and (not accepted or node_id not in state.get_draining_nodes()):
        raise TransientError(f"Ray does not drain node {node_id}: {refusal or 'it is not among the draining nodes'}")


def declare_dead(node_id: str, raylet: str) -> None:
    """Tell Ray that a node is gone, if its `raylet` (host:port) is silent.

    Ray itself believes in a silent node for 13 s or more. Until then what was bound to it waits, and new replicas are
    sent there. Once it is told, all of that goes on elsewhere.

    Raises:
        TransientError: the raylet answers, or Ray does not take the word for it.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.common_pb2 import NodeDeathInfo
    from ray.core.generated.gcs_service_pb2 import UnregisterNodeRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    import ray

    gcs = ray.get_runtime_context().gcs_address
    if answers(raylet):
        raise TransientError(f"node {node_id} is said to be lost, and answers at {raylet}")
    death = NodeDeathInfo(reason=NodeDeathInfo.UNEXPECTED_TERMINATION, reason_message="lost, as the controller says")
    request = UnregisterNodeRequest(node_id=bytes.fromhex(node_id), node_death_info=death)
    with init_grpc_channel(gcs) as channel:
        try:
            NodeInfoGcsServiceStub(channel).UnregisterNode(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            # There is no answer for a node that is dead already.
            if ray.is_initialized() and any(node.id == node_id for node in live_nodes()):
                raise TransientError(f"Ray does not take node {node_id} for dead: {error}") from error


def answers(raylet: str) -> bool:
    """Tell whether something at a raylet's host:port answers, whatever it says."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    with init_grpc_channel(raylet) as channel:
        try:
            channel.unary_unary(HEALTH_CHECK)(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True
