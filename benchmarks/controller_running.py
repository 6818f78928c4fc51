"""What many running jobs cost the controller: a restart, the steady state, and its memory.

    KUBECONFIG=... python benchmarks/controller_running.py --jobs 1000 --workers 1

Needs the CRDs of llmbatch and KubeRay 1.6 on an API server of this machine's own, such as `testbed --api-only`: the
jobs and their pods are made by the benchmark, and a kube-controller-manager would collect pods of nodes that are none.
"""

from __future__ import annotations

import argparse
import asyncio

from controller_world import (
    World,
    api_server_cpu,
    cpu_seconds,
    in_parallel,
    metric,
    namespace,
    operator,
    resident_mb,
    until,
)
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient


async def measure(kube: KubeClient, space: str, jobs: int, workers: int, seconds: float) -> None:
    """Measure once."""
    world = World(kube, space, workers_a_node=8)
    await world.add_jobs(jobs, workers)
    async with world.heads():
        with operator(space):
            # What this version says of a job that the benchmark's status does not is written before.
            await until(lambda: len(world.heard) >= jobs)
            await asyncio.sleep(20)
        world.heard.clear()
        before = await versions(kube, space, sorted(world.jobs.values()))
        with operator(space) as process:
            took = await until(lambda: len(world.heard) >= jobs)
            writes, own = metric("llmbatch_api_writes_total"), cpu_seconds(process.pid)
            print(
                f"{jobs} running jobs, {jobs * (workers + 1)} pods: after a restart every runtime had its Capacity in "
                f"{took:.1f} s ({own:.1f} s of CPU), {writes:.0f} writes, {resident_mb(process.pid):.0f} MB",
                flush=True,
            )
            await asyncio.sleep(20)
            own, server = cpu_seconds(process.pid), api_server_cpu()
            passes = metric("llmbatch_pass_seconds_count")
            await asyncio.sleep(seconds)
            share = (cpu_seconds(process.pid) - own) / seconds
            server_share = (api_server_cpu() - server) / seconds
            rate = (metric("llmbatch_pass_seconds_count") - passes) / seconds
            more, memory = metric("llmbatch_api_writes_total") - writes, resident_mb(process.pid)
        after = await versions(kube, space, sorted(world.jobs.values()))
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    print(
        f"then {rate:.0f} passes/s, {share:.0%} of a core, API server and etcd {server_share:.0%}, {more:.0f} writes "
        f"and {changed} RayClusters changed in {seconds + 20:.0f} s, {memory:.0f} MB",
        flush=True,
    )
    await world.remove_nodes()


async def versions(kube: KubeClient, space: str, names: list[str]) -> list[str]:
    """Return the resourceVersion of each RayCluster: that nothing was created, deleted or changed."""
    found = await in_parallel(kube.get(paths.single("RayCluster", space, name)) for name in names)
    return [item["metadata"]["uid"] + item["metadata"]["resourceVersion"] for item in found]


async def main() -> None:
    """Measure as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steady state")
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        for _ in range(options.runs):
            async with namespace(kube) as space:
                await measure(kube, space, options.jobs, options.workers, options.seconds)
    finally:
        await kube.close()


if __name__ == "__main__":
    asyncio.run(main())
