"""The kubelets of all test nodes in one process.

A node is any Node object with the label `testbed.llmbatch.dev/node`; its GPUs are the annotation
`testbed.llmbatch.dev/gpus`. So every fault is a plain request to the API server:

- a machine comes: create its Node; a machine vanishes without notice: delete its Node (its processes get SIGKILL);
- a machine hangs: annotation `testbed.llmbatch.dev/lost=true` (SIGKILL, and no lease is renewed any more); without the
  annotation it comes back and starts its pods' containers again;
- a notice: taint, cordon or condition, as the clouds write them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmbatch.cluster.client import KubeClient
from llmbatch.errors import LLMBatchError
from testbed.logs import LogServer
from testbed.network import Network
from testbed.pod import PodRunner, now

Object = dict[str, Any]
LABEL = "testbed.llmbatch.dev/node"
GPUS = "testbed.llmbatch.dev/gpus"
LOST = "testbed.llmbatch.dev/lost"
MARK = "testbed"
"""A ConfigMap of kube-system that says that a cluster's nodes are these."""
POLL_SECONDS = 0.25
LEASE_SECONDS = 5.0
_log = logging.getLogger("testbed.kubelet")


def node(name: str, gpus: int = 0, **labels: str) -> Object:
    """Return a Node object that these kubelets take up."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels},
            "annotations": {GPUS: str(gpus)},
        },
    }


class Kubelets:
    """Watches nodes and pods and runs the pods."""

    def __init__(self, client: KubeClient, network: Network, folder: Path, api_server: str, certificate: Path) -> None:
        self._client = client
        self._network = network
        self._folder = folder
        self._api_server = api_server
        self._runners: dict[str, PodRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._logs = LogServer(network.gateway, certificate, self._log_of, lambda *pod: self._runner(*pod) is not None)
        # The nodes share the cores of one machine: all pods of a job at once would take turns for so long that Ray,
        # which gives its agents 15 s to begin, gives them up.
        self._turns = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._nodes: dict[str, float] = {}
        """When each node's lease was renewed (loop seconds)."""

    async def run(self) -> None:
        """Look at nodes and pods over and over."""
        self._folder.mkdir(parents=True, exist_ok=True)
        await self._logs.start()
        try:
            while True:
                try:
                    await self._look()
                except LLMBatchError as error:
                    _log.warning("%s", error)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for runner in self._runners.values():
                runner.kill()
                runner.leave()
            await self._logs.close()

    def _runner(self, namespace: str, name: str) -> PodRunner | None:
        for runner in self._runners.values():
            metadata = runner.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return runner
        return None

    def _log_of(self, namespace: str, name: str, container: str) -> Path | None:
        runner = self._runner(namespace, name)
        return None if runner is None else runner.folder / f"{container}.log"

    async def _look(self) -> None:
        query = {"resourceVersion": "0"}
        nodes = (await self._list("/api/v1/nodes", {**query, "labelSelector": LABEL}))["items"]
        await self._look_at_nodes(nodes)
        pods = (await self._list("/api/v1/pods", query))["items"]
        seen = {pod["metadata"]["uid"]: pod for pod in pods if pod["spec"].get("nodeName") in self._nodes}
        for uid, pod in seen.items():
            self._look_at_pod(uid, pod)
        for uid in self._runners.keys() - seen.keys() - self._ends.keys():
            self._lose(uid)
        self._network.write_hosts((await self._list("/api/v1/services", query))["items"], pods)

    async def _list(self, path: str, query: dict[str, str]) -> Object:
        found = await self._client.get(path, query)
        assert found is not None
        return found

    async def _look_at_nodes(self, nodes: list[Object]) -> None:
        lost = {item["metadata"]["name"] for item in nodes if LOST in (item["metadata"].get("annotations") or {})}
        alive = {item["metadata"]["name"]: item for item in nodes if item["metadata"]["name"] not in lost}
        for name in self._nodes.keys() - alive.keys():
            _log.info("node %s is gone", name)
            del self._nodes[name]
            for uid, runner in list(self._runners.items()):
                if runner.pod["spec"]["nodeName"] == name:
                    self._lose(uid)
        time = asyncio.get_running_loop().time()
        for name, item in alive.items():
            if name not in self._nodes:
                await self._announce(item)
            if time - self._nodes.get(name, 0.0) >= LEASE_SECONDS:
                await self._renew(name)
                self._nodes[name] = time

    async def _announce(self, item: Object) -> None:
        gpus = (item["metadata"].get("annotations") or {}).get(GPUS, "0")
        resources = {"cpu": "16", "memory": "64Gi", "pods": "60", "ephemeral-storage": "50Gi"}
        if gpus != "0":
            resources["nvidia.com/gpu"] = gpus
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "processes can run"}
        status = {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{**ready, "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
            "addresses": [{"type": "InternalIP", "address": self._network.gateway}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}},
        }
        await self._client.merge_patch(f"/api/v1/nodes/{item['metadata']['name']}/status", {"status": status})

    async def _renew(self, name: str) -> None:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        await self._client.apply(path, lease, manager="kubelet")

    def _look_at_pod(self, uid: str, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._ends:
                self._ends[uid] = asyncio.create_task(self._end(uid, pod))
        elif uid not in self._runners and pod["status"].get("phase", "Pending") in ("Pending", "Running"):
            # Running, and not here: its machine was lost and came back, and starts its containers again.
            folder = self._folder / f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{uid[:8]}"
            runner = PodRunner(self._client, pod, self._network, folder, self._api_server, self._turns)
            self._runners[uid] = runner
            self._tasks[uid] = asyncio.create_task(self._run(runner))
            _log.info("%s runs on %s at %s", pod["metadata"]["name"], pod["spec"]["nodeName"], runner.address)

    async def _run(self, runner: PodRunner) -> None:
        try:
            await runner.run()
        except Exception:
            _log.exception("pod %s", runner.pod["metadata"]["name"])
            raise

    async def _end(self, uid: str, pod: Object) -> None:
        runner = self._runners.get(uid)
        if runner is not None:
            await runner.end(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
        self._lose(uid)
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        with contextlib.suppress(LLMBatchError):
            await self._client._request("DELETE", path, {**options, "preconditions": {"uid": uid}}, absent=(404, 409))
        del self._ends[uid]
        _log.info("%s is gone", pod["metadata"]["name"])

    def _lose(self, uid: str) -> None:
        runner, task = self._runners.pop(uid, None), self._tasks.pop(uid, None)
        if runner is not None and task is not None:
            runner.kill()
            task.cancel()
            runner.leave()
