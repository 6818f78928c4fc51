"""API writes of the controller in a job's whole life without faults, from its creation to its end.

    KUBECONFIG=... python benchmarks/controller_life.py --jobs 20 --seconds 30 330

Needs what controller_running.py needs: this program stands in for KubeRay, the kubelets and the drivers. Pods are ready
as soon as a RayCluster asks for them, and a driver is through after so many seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from aiohttp import web

from controller_world import World, actions, in_parallel, job, metric, namespace, operator, series, until
from llmbatch.api.base import KIND
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient

WORKERS = 2
ROWS = 1_000_000


class Lives(World):
    """Jobs that are new, and what makes them run."""

    def __init__(self, kube: KubeClient, space: str, seconds: float) -> None:
        super().__init__(kube, space)
        self.seconds = seconds
        self.submitted: dict[str, tuple[str, float]] = {}
        """By token, the submission and when it came."""

    async def create(self, count: int) -> None:
        """Create the jobs and their nodes."""
        await self.add_nodes(count, WORKERS)
        names = [f"j{number:05}" for number in range(count)]
        made = await in_parallel(
            self.kube.create(paths.collection(KIND, self.namespace), job(name, WORKERS)) for name in names
        )
        self.jobs = {body["metadata"]["uid"]: body["metadata"]["name"] for body in made}

    async def make_pods(self) -> None:
        """Make the pods of each RayCluster that has none, forever."""
        made: set[str] = set()
        while True:
            listed = await self.kube.get(paths.collection("RayCluster", self.namespace)) or {"items": []}
            for cluster in listed["items"]:
                name = cluster["metadata"]["name"]
                if name not in made:
                    await self.add_pods(cluster, len(made), WORKERS)
                    made.add(name)
            await asyncio.sleep(0.5)

    def progress(self, token: str) -> Progress:
        """Return the Progress of a driver: as many rows as its time allows."""
        _, began = self.submitted[token]
        done = min(1.0, (time.monotonic() - began) / self.seconds)
        rows = RowProgress(percentage=100 * done, rows_total=ROWS, rows_completed=int(done * ROWS))
        return Progress(state="complete" if done == 1.0 else "running", rows=rows, useful_gpus=WORKERS)

    async def _list(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"]
        if token not in self.submitted:
            return web.json_response([])
        return web.json_response([{"submission_id": self.submitted[token][0], "status": "RUNNING"}])

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.submitted[request.headers["Authorization"]] = body["submission_id"], time.monotonic()
        return web.json_response({"submission_id": body["submission_id"]})

    async def _progress(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"]
        if token not in self.submitted:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.progress(token).model_dump_json(by_alias=True), content_type="application/json")

    async def _capacity(self, request: web.Request) -> web.Response:
        return await self._progress(request)


async def measure(kube: KubeClient, space: str, count: int, seconds: float) -> None:
    """Measure jobs of one length."""
    world = Lives(kube, space, seconds)
    await world.create(count)
    async with world.heads(), asyncio.TaskGroup() as group:
        pods = group.create_task(world.make_pods())
        with operator(space):
            await until(lambda: metric("llmbatch_status_writes_total") > 0)
            await until(lambda: series("llmbatch_jobs").get('phase="Complete"', 0) >= count)
            await asyncio.sleep(30)
            writes, statuses = metric("llmbatch_api_writes_total"), metric("llmbatch_status_writes_total")
            print(
                f"{count} jobs of {seconds:.0f} s and {ROWS:,} rows: {writes / count:.1f} API writes a job, "
                f"{statuses / count:.1f} of them statuses ({actions()})",
                flush=True,
            )
        pods.cancel()
    await world.remove_nodes()


async def main() -> None:
    """Measure each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 330.0])
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        for seconds in options.seconds:
            async with namespace(kube) as space:
                await measure(kube, space, options.jobs, seconds)
    finally:
        await kube.close()


if __name__ == "__main__":
    asyncio.run(main())
