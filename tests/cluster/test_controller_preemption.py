"""From a sign on a node to the Capacity that the runtime takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmbatch.cluster import paths
from operatorkit import HeadServer, Kube, head, job, kube, kubelet, operating

pytestmark = pytest.mark.cluster
SPOT_TAINT = "aws-node-termination-handler/spot-itn"


def running(api: Kube, server: HeadServer) -> None:
    """Wait until the driver runs, both workers are ready and the runtime was told of them."""
    api.wait(lambda: api.condition("summarise", "Running")[0] == "True")
    api.wait(lambda: (api.job("summarise")["status"].get("capacity") or {}).get("workersReady") == 2)
    api.wait(lambda: server.capacities)


def told(server: HeadServer, worker: str) -> list[tuple[float, dict[str, Any]]]:
    return [
        (at, doomed)
        for at, capacity in server.capacities
        for doomed in capacity.get("doomed", [])
        if doomed["worker"] == worker
    ]


def worker_on(api: Kube, node: str) -> str:
    [name] = [pod["metadata"]["name"] for pod in api.items("Pod") if pod["spec"].get("nodeName") == node]
    return name


def preemptions(api: Kube) -> int:
    return (api.job("summarise")["status"].get("preemptions") or {}).get("total", 0)


def test_a_notice_on_a_node_reaches_the_runtime_and_is_counted_once(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api) as operator, head(api, nodes) as server:
            nodes.may_run.set()
            running(api, server)
            node = next(name for name in nodes._nodes if name.startswith("spot-0"))
            worker = worker_on(api, node)
            nodes.taint(node, SPOT_TAINT)
            _, doomed = api.wait(lambda: told(server, worker))[0]
            assert doomed["kind"] == "reclaim"
            assert doomed["deadline"] > time.time() + 60
            api.wait(lambda: operator.metrics.notice_to_runtime._sum.get() > 0)
            api.wait(lambda: preemptions(api) == 1)
            [event] = api.wait(lambda: [item for item in api.items("Event") if item["reason"] == "Preempted"])
            assert worker in event["note"]
            nodes.vanish(node)
            api.wait(lambda: told(server, worker)[-1][1]["kind"] == "lost")
            assert preemptions(api) == 1


def test_a_node_that_vanishes_without_notice_is_lost(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            running(api, server)
            node = next(name for name in nodes._nodes if name.startswith("spot-1"))
            worker = worker_on(api, node)
            nodes.vanish(node)
            _, doomed = api.wait(lambda: told(server, worker))[0]
            assert doomed["kind"] in ("lost", "reclaim")
            api.wait(lambda: preemptions(api) == 1)


def test_without_nodes_a_pods_deletion_is_the_notice(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api, watch_nodes=False), head(api, nodes) as server:
            nodes.may_run.set()
            running(api, server)
            node = next(name for name in nodes._nodes if name.startswith("spot-0"))
            worker = worker_on(api, node)
            api.delete("Pod", worker)
            api.wait(lambda: preemptions(api) == 1)
            node = next(name for name in nodes._nodes if name.startswith("spot-1"))
            api.force_delete(paths.single("Pod", api.namespace, worker_on(api, node)))
            api.wait(lambda: preemptions(api) == 2)
            api.wait(lambda: len([pod for pod in api.items("Pod") if pod["status"]["phase"] == "Running"]) == 3)
            assert api.condition("summarise", "Running")[0] == "True"
