"""The controller's memory, by the number of pods it watches.

    KUBECONFIG=... python benchmarks/controller_memory.py --pods 0 150 1000 5000

Resident memory after every runtime was told its Capacity, and again at rest half a minute later, in jobs of 49 workers
and a head, 8 workers a node. Needs what controller_running.py needs.
"""

from __future__ import annotations

import argparse
import asyncio

from controller_world import World, metric, namespace, operator, resident_mb, until
from llmbatch.cluster.client import KubeClient

POD_JOB = 50


async def measure(kube: KubeClient, pods: int) -> float:
    """Return the resident memory with so many pods, in MB."""
    async with namespace(kube) as space:
        world = World(kube, space, workers_a_node=8)
        await world.add_jobs(pods // POD_JOB, POD_JOB - 1)
        async with world.heads():
            with operator(space) as process:
                await until(lambda: len(world.heard) >= len(world.jobs) and metric("llmbatch_jobs") == len(world.jobs))
                at_start = resident_mb(process.pid)
                await asyncio.sleep(30)
                at_rest = resident_mb(process.pid)
        await world.remove_nodes()
    print(f"{pods:>5} pods, {len(world.jobs):>3} jobs: {at_start:.0f} MB, at rest {at_rest:.0f} MB", flush=True)
    return at_rest


async def main() -> None:
    """Measure each number of pods and print the slope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, nargs="+", default=[0, 150, 1000, 5000])
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        found = [await measure(kube, pods) for pods in options.pods]
    finally:
        await kube.close()
    slope = (found[-1] - found[0]) / (options.pods[-1] - options.pods[0])
    print(f"{found[0]:.0f} MB + {slope:.3f} MB a pod")


if __name__ == "__main__":
    asyncio.run(main())
