"""Jobs that run, without KubeRay and without nodes: for the benchmarks of the controller. No program of its own.

Everything a running job has on the API server is made here: the job with its status, its children, its RayCluster, and
its pods with theirs. The heads are one server on a loopback address that tells the jobs apart by their tokens. What is
measured is the operator, as a process of its own, and the API server; `python -m testbed --api-only` starts just that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from llmbatch.api.base import KIND
from llmbatch.api.conditions import Condition
from llmbatch.api.job import CapacityStatus, LLMBatchJobSpec, LLMBatchJobStatus
from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient
from llmbatch.core.job.children import build_children
from llmbatch.core.job.children.names import submission_id
from llmbatch.core.job.children.pods import TOKEN_KEY
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings

PORT = 18080
HEADS = "127.77.0.1"
HEAD_NODE = "head-node"
NOWHERE = {"example.com/no": "such-node"}
AT_ONCE = 32
Body = dict[str, Any]


def job(name: str, workers: int = 1) -> Body:
    """Return a job of one GPU stage whose pods fit no node."""
    stage = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"gpus": 1}}
    return {
        "apiVersion": "llmbatch.dev/v1alpha1",
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "input": {"uri": "s3://in/*.jsonl", "format": "jsonl", "idField": "id"},
            "stages": [{**stage, "replicas": {"max": workers}}],
            "output": {"uri": f"s3://out/{name}/"},
            "capacity": {"spot": {"max": workers, "nodeSelector": NOWHERE}, "onDemand": {"nodeSelector": NOWHERE}},
        },
    }


# -- the operator as a process -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def operator(namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an operator of one namespace; nodes are watched as well. Its bytecode is kept, as in the image."""
    program = str(Path(sys.executable).with_name("llmbatch"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [program, "operator", "-n", namespace, "--port", str(PORT), "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def series(name: str) -> dict[str, float]:
    """Return the series of one of the operator's metrics by their labels; none before it is there."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=30).read().decode()
    except OSError:
        return {}
    words = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    found = ((*key.partition("{"), value) for key, _, value in words)
    return {labels.rstrip("}"): float(value) for key, _, labels, value in found if key == name}


def metric(name: str) -> float:
    """Return the sum over one of the operator's metrics."""
    return sum(series(name).values())


def actions() -> str:
    """Return how often the operator carried out each action."""
    counts = series("llmbatch_actions_total")
    return ", ".join(f"{label.removeprefix('action=')} {count:.0f}" for label, count in counts.items())


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def api_server_cpu() -> float:
    """Return the CPU seconds so far of the API server and etcd, where they run on this machine."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:2] and words[1] in (b"kube-apiserver", b"etcd"):
                total += cpu_seconds(int(folder.name))
    return total


# -- objects -----------------------------------------------------------------------------------------------------------


async def in_parallel(work: Iterable[Awaitable[Any]]) -> list[Any]:
    """Await all of it, `AT_ONCE` at a time, and return the answers in order."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[Any]) -> Any:
        async with gate:
            return await item

    return await asyncio.gather(*(one(item) for item in work))


@contextlib.asynccontextmanager
async def namespace(kube: KubeClient) -> AsyncIterator[str]:
    """A namespace of its own."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    await kube.create("/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        yield name
    finally:
        await kube.delete(f"/api/v1/namespaces/{name}")


@dataclass
class World:
    """Running jobs of one namespace, and what their heads were told."""

    kube: KubeClient
    namespace: str
    workers_a_node: int = 1
    jobs: dict[str, str] = field(default_factory=dict)
    """Name of each job by its token, which is its uid."""
    told: dict[str, float] = field(default_factory=dict)
    """When the runtime heard of each doomed worker first, monotonic seconds."""
    heard: set[str] = field(default_factory=set)
    """Jobs whose head got a Capacity."""

    async def _node(self, name: str) -> None:
        path = f"/api/v1/nodes/{name}"
        await self.kube.create("/api/v1/nodes", {"metadata": {"name": name}})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        await self.kube.merge_patch(f"{path}/status", {"status": {"conditions": [ready]}})

    async def add_jobs(self, count: int, workers: int) -> None:
        """Create running jobs with so many workers each, and their nodes; see `node_of`."""
        await self.add_nodes(count, workers)
        await in_parallel(self._job(f"j{number:05}", number, workers) for number in range(count))

    async def add_nodes(self, count: int, workers: int) -> None:
        """Create the nodes of so many jobs."""
        nodes = sorted({self.node_of(number, index, workers) for number in range(count) for index in range(workers)})
        await in_parallel(self._node(name) for name in (HEAD_NODE, *nodes))

    def node_of(self, number: int, index: int, workers: int) -> str:
        """Return the node of a worker, by the numbers of job and worker."""
        return f"node-{(number * workers + index) // self.workers_a_node:05}"

    async def remove_nodes(self) -> None:
        """Delete all nodes there are."""
        listed = await self.kube.get("/api/v1/nodes") or {}
        await in_parallel(self.kube.delete(f"/api/v1/nodes/{item['metadata']['name']}") for item in listed["items"])

    async def _job(self, name: str, number: int, workers: int) -> None:
        kube, space = self.kube, self.namespace
        stored = await kube.create(paths.collection(KIND, space), job(name, workers))
        assert stored is not None
        uid = stored["metadata"]["uid"]
        self.jobs[uid] = name
        spec = LLMBatchJobSpec.model_validate(stored["spec"])
        seen = JobObservation(name=name, namespace=space, uid=uid, spec=spec)
        cluster: Body = {}
        for child in build_children(seen, spec, OperatorSettings(), {"spot": workers}):
            if child["kind"] == "Secret":
                child["stringData"] = {TOKEN_KEY: uid}
            cluster = await kube.create(paths.collection(child["kind"], space), child) or {}
        await self.add_pods(cluster, number, workers)
        status = running(cluster["metadata"]["name"], workers)
        body = {**stored, "status": status.to_wire()}
        await kube.replace(paths.single(KIND, space, name) + "/status", body)

    async def add_pods(self, cluster: Body, number: int, workers: int) -> None:
        """Create the pods of a RayCluster, all ready, as KubeRay and the kubelets would."""
        for index, pod in enumerate(self._pods(cluster, "worker", "spot", workers)):
            await self._pod(pod, self.node_of(number, index, workers))
        for pod in self._pods(cluster, "head", "head", 1):
            await self._pod(pod, HEAD_NODE)
        ready = {
            "type": "HeadPodReady",
            "status": "True",
            "reason": "Ready",
            "message": "",
            "lastTransitionTime": now(),
        }
        path = paths.single("RayCluster", self.namespace, cluster["metadata"]["name"])
        await self.kube.merge_patch(f"{path}/status", {"status": {"conditions": [ready]}})

    def _pods(self, cluster: Body, component: str, group: str, count: int) -> Iterator[Body]:
        name = cluster["metadata"]["name"]
        groups = cluster["spec"]["workerGroupSpecs"]
        template = next((item["template"] for item in groups if item["groupName"] == group), None)
        template = template or cluster["spec"]["headGroupSpec"]["template"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "controller": True}
        owner |= {key: cluster["metadata"][key] for key in ("name", "uid")}
        marks = {"ray.io/cluster": name, "ray.io/node-type": component, "ray.io/group": group}
        for index in range(count):
            metadata = {
                "name": f"{name}-{group}-{index:03}",
                "labels": {**template["metadata"]["labels"], **marks},
                "annotations": template["metadata"]["annotations"],
                "ownerReferences": [owner],
            }
            spec = {key: value for key, value in template["spec"].items() if key != "nodeSelector"}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    async def _pod(self, pod: Body, node: str) -> None:
        pod["spec"] = {**pod["spec"], "nodeName": node}
        await self.kube.create(paths.collection("Pod", self.namespace), pod)
        kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now()} for kind in kinds]
        container = {"name": "ray", "image": "ray", "imageID": "sha256:0", "ready": True, "restartCount": 0}
        container["state"] = {"running": {"startedAt": now()}}
        status = {
            "phase": "Running",
            "podIP": HEADS,
            "podIPs": [{"ip": HEADS}],
            "startTime": now(),
            "conditions": conditions,
            "containerStatuses": [container],
        }
        path = paths.single("Pod", self.namespace, pod["metadata"]["name"])
        await self.kube.merge_patch(f"{path}/status", {"status": status})

    # -- the heads -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def heads(self) -> AsyncIterator[None]:
        """Answer as the heads of all jobs do."""
        ray, control = web.Application(), web.Application()
        ray.router.add_get("/api/jobs/", self._list)
        ray.router.add_post("/api/jobs/", self._submit)
        control.router.add_get("/v1/progress", self._progress)
        control.router.add_put("/v1/capacity", self._capacity)
        runners = []
        for app, port in ((ray, 8265), (control, 8200)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            # Each head has a queue of its own; this one stands for a thousand.
            await web.TCPSite(runner, HEADS, port, backlog=4096).start()
            runners.append(runner)
        try:
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([{"submission_id": submission_id(_uid(request), 1), "status": "RUNNING"}])

    async def _submit(self, _: web.Request) -> web.Response:
        raise web.HTTPInternalServerError(text="this job runs already")

    async def _progress(self, _: web.Request) -> web.Response:
        return web.Response(text=PROGRESS, content_type="application/json")

    async def _capacity(self, request: web.Request) -> web.Response:
        arrived = time.monotonic()
        for worker in (await request.json()).get("doomed", ()):
            self.told.setdefault(worker["worker"], arrived)
        self.heard.add(self.jobs[_uid(request)])
        return web.Response(text=PROGRESS, content_type="application/json")


PROGRESS = Progress(state="running").model_dump_json(by_alias=True)


def running(cluster: str, workers: int) -> LLMBatchJobStatus:
    """Return the status of a job that has run since now."""
    conditions = [("Accepted", "Valid"), ("ClusterReady", "HeadReady"), ("Running", "DriverRunning")]
    return LLMBatchJobStatus(
        observed_generation=1,
        phase="Running",
        conditions=tuple(
            Condition(type=kind, status="True", reason=reason, last_transition_time=now(), observed_generation=1)
            for kind, reason in conditions
        ),
        attempt=1,
        attempt_started_at=now(),
        ray_cluster_name=cluster,
        capacity=CapacityStatus(workers_ready=workers, workers_wanted=workers, spot_ready=workers, gpus=workers),
        started_at=now(),
        updated_at=now(),
    )


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def until(what: Callable[[], bool], seconds: float = 600.0) -> float:
    """Wait until it is true, and return how long that took, in seconds."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not true within {seconds:.0f} s")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def _uid(request: web.Request) -> str:
    return request.headers["Authorization"].removeprefix("Bearer ")
