"""Which nodes are lost, and what becomes of one that still answers."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from llmbatch.api.capacity import Capacity, DoomedWorker
from llmbatch.errors import TransientError
from llmbatch.runtime.pools.nodes import RayNode, answers, declare_dead, lost_nodes


def node(name: str) -> RayNode:
    return RayNode(name, f"10.0.0.{name}", 1, f"pod-{name}", 1, 8.0, None, draining=False)


def test_only_workers_that_are_gone_are_lost_and_only_while_ray_has_them() -> None:
    doomed = (
        DoomedWorker(worker="pod-1", address="10.0.0.1", kind="lost"),
        DoomedWorker(worker="pod-2", address="10.0.0.2", kind="reclaim"),
        DoomedWorker(worker="pod-9", address="10.0.0.9", kind="lost"),
    )
    assert lost_nodes([node("1"), node("2"), node("3")], Capacity(doomed=doomed)) == [node("1")]


def test_a_node_that_answers_is_not_declared_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        gcs_address = "127.0.0.1:1"

    monkeypatch.setattr("ray.get_runtime_context", Context)
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        # It has no health service: whoever says so lives.
        with pytest.raises(TransientError, match="node ab is said to be lost, and answers at"):
            declare_dead("ab", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert not answers(f"127.0.0.1:{port}")
