"""A controller in this process against a real API server, and nodes whose pods run nothing.

The API server, its controllers, the scheduler and KubeRay are real. What stands in is the kubelet, which only says
that pods run, and on the head Ray's Jobs API; the control endpoint is the runtime's own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient
from llmbatch.controller.app import Operator, Options
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import LLMBatchError
from llmbatch.runtime.control import Board, application
from llmbatch.runtime.desired import Desired

T = TypeVar("T")
Body = dict[str, Any]
SETTINGS = OperatorSettings(
    image="registry.example/llmbatch:1",
    head_cpu="100m",
    head_memory="1Gi",
    worker_cpu="100m",
    worker_memory="1Gi",
    status_seconds=1,
)
PATIENCE = 120.0
"""Longest wait for one thing, in seconds: a machine that does other work as well has its time."""
NOWHERE = {"example.com/no": "such-node"}
_addresses = itertools.count(2)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def close(self) -> None:
        # Closing a TLS connection takes a word of the server, 30 s at most. The loop's own pipe stays.
        while len(self.loop._selector.get_map()) > 1:  # type: ignore[attr-defined]
            time.sleep(0.01)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Kube:
    """The API server, for a test in one namespace of its own."""

    def __init__(self, kubeconfig: Path, thread: LoopThread) -> None:
        self.thread = thread
        self.kubeconfig = kubeconfig
        self.client = thread.run(KubeClient.connect(kubeconfig))
        self.namespace = f"t-{uuid.uuid4().hex[:10]}"
        self.create_at("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def close(self) -> None:
        self.thread.run(self.client.delete(f"/api/v1/namespaces/{self.namespace}"))
        self.thread.run(self.client.close())

    def get(self, kind: str, name: str) -> Body | None:
        return self.get_at(paths.single(kind, self.namespace, name))

    def get_at(self, path: str) -> Body | None:
        return self.thread.run(self.client.get(path))

    def items(self, kind: str) -> list[Body]:
        return self.get_at(paths.collection(kind, self.namespace))["items"]

    def create(self, body: Body) -> Body:
        return self.create_at(paths.collection(body["kind"], self.namespace), body)

    def create_at(self, path: str, body: Body) -> Body:
        created = self.thread.run(self.client.create(path, body))
        assert created is not None, f"{path} exists already"
        return created

    def patch(self, kind: str, name: str, patch: Body) -> Body:
        return self.patch_at(paths.single(kind, self.namespace, name), patch)

    def patch_at(self, path: str, patch: Body) -> Body:
        return self.thread.run(self.client.merge_patch(path, patch))

    def apply_at(self, path: str, body: Body) -> Body:
        return self.thread.run(self.client.apply(path, body))

    def delete(self, kind: str, name: str) -> None:
        self.delete_at(paths.single(kind, self.namespace, name))

    def delete_at(self, path: str) -> None:
        self.thread.run(self.client.delete(path))

    def force_delete(self, path: str) -> None:
        """Delete a pod as `kubectl delete --force` does: it is gone at once."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.thread.run(self.client._request("DELETE", path, options, absent=(404, 409)))

    def job(self, name: str) -> Body:
        job = self.get(KIND, name)
        assert job is not None
        return job

    def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition; blanks while it is not there."""
        conditions = (self.job(name).get("status") or {}).get("conditions", [])
        found = next((item for item in conditions if item["type"] == kind), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def wait_for_right(self, account: str, verb: str, group: str, resource: str) -> None:
        """Wait until the API server grants what a Role gives a service account of the namespace."""
        user = f"system:serviceaccount:{self.namespace}:{account}"
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        review = {"metadata": {"namespace": self.namespace}, "spec": {"user": user, "resourceAttributes": asked}}
        path = f"/apis/authorization.k8s.io/v1/namespaces/{self.namespace}/localsubjectaccessreviews"
        self.wait(lambda: self.create_at(path, review)["status"]["allowed"])

    def wait(self, what: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Return the first true answer."""
        deadline = time.monotonic() + seconds
        while True:
            answer = what()
            if answer or time.monotonic() > deadline:
                assert answer, f"not true within {seconds} s"
                return answer
            time.sleep(0.1)


@contextlib.contextmanager
def kube(kubeconfig: Path) -> Iterator[Kube]:
    """A namespace of its own on the API server; it is deleted in the end."""
    thread = LoopThread()
    made = Kube(kubeconfig, thread)
    try:
        yield made
    finally:
        made.close()
        thread.close()


@contextlib.contextmanager
def operating(
    kube: Kube, kubeconfig: Path | None = None, *, watch_nodes: bool = True, **settings: Any
) -> Iterator[Operator]:
    """A controller of the test's namespace, stopped in the end."""
    thread = LoopThread()
    client = thread.run(KubeClient.connect(kubeconfig or kube.kubeconfig))
    options = Options(namespaces=(kube.namespace,), watch_nodes=watch_nodes, host="127.0.0.1", port=0)
    stop = asyncio.Event()

    async def made() -> Operator:
        return Operator(client, SETTINGS.model_copy(update=settings), options)

    operator = thread.run(made())
    running = asyncio.run_coroutine_threadsafe(operator.run(stop), thread.loop)
    try:
        yield operator
    finally:
        thread.loop.call_soon_threadsafe(stop.set)
        running.result(PATIENCE)
        thread.run(client.close())
        thread.close()


def job(name: str = "summarise", **changes: Any) -> Body:
    """Return a job of one GPU stage on two spot workers; without other capacity no node takes its pods."""
    spec: Body = {
        "input": {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": [
            {
                "name": "say",
                "engine": "simulated",
                "prompt": {"user": "Say: {{ text }}"},
                "replicas": {"max": 2},
                "resources": {"gpus": 1},
            }
        ],
        "output": {"uri": "s3://corpus/out/"},
        "capacity": {"spot": {"max": 2, "nodeSelector": NOWHERE}, "onDemand": {"nodeSelector": NOWHERE}},
        **changes,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


class Kubelet:
    """Nodes of one test. Pods bound to them are said to run; deleted ones are gone at once."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._mark = uuid.uuid4().hex[:8]
        self._nodes: list[str] = []
        high, low = divmod(os.getpid() % 2**15, 2**8)
        self.address = f"127.{64 + high % 64}.{low}.{next(_addresses)}"
        """Address of the heads."""
        self.may_run = threading.Event()
        """Pods are said to run only once this is set."""
        self.may_run.set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        for name in ("on-demand", "spot-0", "spot-1"):
            self.add(name)
        self._thread.start()

    def capacity(self) -> Body:
        """Return `spec.capacity` of a job that runs on these nodes."""
        return {
            "spot": {"max": 2, "nodeSelector": self.selector("spot")},
            "onDemand": {"max": 0, "nodeSelector": self.selector("on-demand")},
        }

    def selector(self, market: str) -> dict[str, str]:
        return {"example.com/test": self._mark, "example.com/market": market}

    def add(self, name: str) -> str:
        """Add a node and return its full name."""
        full = f"{name}-{self._mark}"
        labels = self.selector("spot" if name.startswith("spot") else "on-demand")
        self._kube.create_at("/api/v1/nodes", {"metadata": {"name": full, "labels": labels}})
        capacity = {"cpu": "8", "memory": "32Gi", "pods": "50", "nvidia.com/gpu": "1"}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready | {"lastTransitionTime": now}]}
        self._kube.patch_at(f"/api/v1/nodes/{full}/status", {"status": status})
        self._nodes.append(full)
        return full

    def taint(self, node: str, key: str) -> None:
        """Add a taint to a node."""
        seen = self._kube.get_at(f"/api/v1/nodes/{node}")
        taints = [*(seen["spec"].get("taints") or []), {"key": key, "effect": "NoSchedule"}]
        self._kube.patch_at(f"/api/v1/nodes/{node}", {"spec": {"taints": taints}})

    def vanish(self, node: str) -> None:
        """Delete a node, as a cloud does after the machine is gone."""
        self._nodes.remove(node)
        self._kube.thread.run(self._kube.client.delete(f"/api/v1/nodes/{node}"))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for node in list(self._nodes):
            self.vanish(node)

    def _work(self) -> None:
        beaten = 0.0
        while not self._stop.wait(0.1):
            with contextlib.suppress(LLMBatchError):
                if time.monotonic() - beaten > 5:
                    beaten = time.monotonic()
                    self._beat()
                for pod in self._kube.items("Pod"):
                    if pod["spec"].get("nodeName") in self._nodes:
                        self._look_at(pod)

    def _look_at(self, pod: Body) -> None:
        path = paths.single("Pod", self._kube.namespace, pod["metadata"]["name"])
        if "deletionTimestamp" in pod["metadata"]:
            self._kube.force_delete(path)
        elif pod["status"].get("phase") == "Pending" and self.may_run.is_set():
            head = pod["metadata"]["labels"].get("ray.io/node-type") == "head"
            address = self.address if head else "127.255.255.254"
            self._kube.patch_at(f"{path}/status", {"status": running_status(pod, address)})

    def _beat(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for node in self._nodes:
            spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec}
            root = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
            self._kube.thread.run(self._kube.client.apply(root, lease, manager="kubelet"))


@contextlib.contextmanager
def kubelet(kube: Kube) -> Iterator[Kubelet]:
    """Three nodes: one on demand, two on spot capacity."""
    made = Kubelet(kube)
    try:
        yield made
    finally:
        made.close()


def running_status(pod: Body, address: str) -> Body:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }
        for container in pod["spec"]["containers"]
    ]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "containerStatuses": containers,
    }


class HeadServer:
    """A head on a loopback address: Ray's Jobs API as Ray 2.60 answers it, and the runtime's control endpoint."""

    def __init__(self, kube: Kube, address: str, job: str) -> None:
        self._thread = LoopThread()
        self.board, self.desired = Board(), Desired()
        self.board.post(Progress(state="running"))
        self.jobs: dict[str, Body] = {}
        self.capacities: list[tuple[float, Body]] = []
        """Each Capacity that came, and when (monotonic seconds)."""
        self._token = kube.wait(lambda: self._read_token(kube, job))
        self._runners = self._thread.run(self._start(address))

    def _read_token(self, kube: Kube, job: str) -> str:
        secret = kube.get("Secret", f"{job}-token")
        return base64.b64decode(secret["data"]["auth_token"]).decode() if secret else ""

    async def _start(self, address: str) -> list[web.AppRunner]:
        control = application(self._token, self.desired, self.board)

        @web.middleware
        async def note(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.method == "PUT":
                self.capacities.append((time.monotonic(), json.loads(await request.read())))
            return await handler(request)

        control.middlewares.append(note)
        ray = web.Application(middlewares=[self._authorized])
        ray.router.add_get("/api/jobs/", self._list)
        ray.router.add_post("/api/jobs/", self._submit)
        ray.router.add_post("/api/jobs/{id}/stop", self._stop)
        ray.router.add_get("/api/v0/logs/file", self._log)
        runners = []
        for app, port in ((control, 8200), (ray, 8265)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, address, port).start()
            runners.append(runner)
        return runners

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            raise web.HTTPForbidden
        return await handler(request)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["submission_id"] in self.jobs:
            raise web.HTTPInternalServerError(text="a job with this submission id exists")
        attempt = int(body["submission_id"].rpartition("-")[2])
        # First: a test that sees the job may end it at once.
        self.board.post(Progress(state="running", attempt=attempt))
        self.jobs[body["submission_id"]] = {**body, "type": "SUBMISSION", "status": "RUNNING"}
        return web.json_response({"submission_id": body["submission_id"]})

    async def _stop(self, request: web.Request) -> web.Response:
        self.jobs[request.match_info["id"]]["status"] = "STOPPED"
        return web.json_response({"stopped": True})

    async def _log(self, request: web.Request) -> web.Response:
        assert request.query["node_ip"], "Ray 2.60 answers 500 without a node"
        return web.Response(text=f"bye\nllmbatch-progress {self.board.latest().model_dump_json(by_alias=True)}\n")

    def end(self, submission_id: str, progress: Progress, exit_code: int = 0) -> None:
        """End a driver, leaving this Progress in its log."""
        self.board.post(progress)
        status = "SUCCEEDED" if exit_code == 0 else "FAILED"
        self.jobs[submission_id] |= {"status": status, "driver_exit_code": exit_code}

    def close(self) -> None:
        for runner in self._runners:
            self._thread.run(runner.cleanup())
        self._thread.close()


@contextlib.contextmanager
def head(kube: Kube, kubelet: Kubelet, job: str = "summarise") -> Iterator[HeadServer]:
    """The head of a job, from the time on when its Secret is there."""
    made = HeadServer(kube, kubelet.address, job)
    try:
        yield made
    finally:
        made.close()
