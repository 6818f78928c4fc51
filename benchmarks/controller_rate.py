"""How fast the controller makes RayClusters, on a real API server.

    KUBECONFIG=... python benchmarks/controller_rate.py --jobs 1000

Needs the CRDs of llmbatch and KubeRay 1.6 on the API server. Where KubeRay's operator runs as well, its own rate, from
the first RayCluster to the last one with pods, is the baseline of the printed ratio; it takes most of a small machine.
No node needs to take the pods.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from controller_world import api_server_cpu, cpu_seconds, in_parallel, job, metric, namespace, operator, resident_mb
from llmbatch.api.base import KIND
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient

LOOK_SECONDS = 1.0


async def count(kube: KubeClient, space: str, *, with_pods: bool) -> int:
    """Return how many RayClusters there are, or how many of them KubeRay made pods for."""
    path = paths.collection("RayCluster", space)
    if not with_pods:
        first = await kube.get(path, {"limit": "1"}) or {}
        return len(first["items"]) + int(first["metadata"].get("remainingItemCount") or 0)
    listed = (await kube.get(path) or {})["items"]
    return sum(bool((item.get("status") or {}).get("desiredWorkerReplicas")) for item in listed)


async def seconds_until(kube: KubeClient, space: str, jobs: int, began: float, *, with_pods: bool) -> float:
    """Return the seconds until there are so many, seen within `LOOK_SECONDS`."""
    while True:
        if await count(kube, space, with_pods=with_pods) >= jobs:
            return time.monotonic() - began
        await asyncio.sleep(LOOK_SECONDS)


async def measure(kube: KubeClient, space: str, jobs: int, *, kuberay: bool) -> None:
    """Measure once."""
    began = time.monotonic()
    await in_parallel(kube.create(paths.collection(KIND, space), job(f"j{number:05}")) for number in range(jobs))
    plain = jobs / (time.monotonic() - began)
    server = api_server_cpu()
    began = time.monotonic()
    with operator(space) as process:
        ours = await seconds_until(kube, space, jobs, began, with_pods=False)
        cpu, server = cpu_seconds(process.pid), api_server_cpu() - server
        text = (
            f"{jobs} jobs: RayClusters {jobs / ours:.1f}/s, start-up included (one client's plain creates of jobs, "
            f"for comparison: {plain:.0f}/s); CPU a job: operator {1000 * cpu / jobs:.0f} ms, API server and etcd "
            f"{1000 * server / jobs:.0f} ms; "
        )
        if kuberay:
            theirs = await seconds_until(kube, space, jobs, began, with_pods=True)
            text += f"KubeRay {jobs / theirs:.1f}/s, ratio {theirs / ours:.2f}; "
        await asyncio.sleep(20)
        writes = metric("llmbatch_api_writes_total") / jobs
        print(f"{text}{writes:.1f} API writes a job so far, {resident_mb(process.pid):.0f} MB", flush=True)


async def main() -> None:
    """Measure as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kuberay", action="store_true", help="wait for KubeRay's pods as well")
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        for _ in range(options.runs):
            async with namespace(kube) as space:
                await measure(kube, space, options.jobs, kuberay=options.kuberay)
    finally:
        await kube.close()


if __name__ == "__main__":
    asyncio.run(main())
