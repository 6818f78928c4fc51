"""How long it takes from a node's notice until the runtime knows which worker goes.

    KUBECONFIG=... python benchmarks/controller_notice.py --jobs 100 --workers 10 --notices 300

From before the request that taints a node until the head's control endpoint has a Capacity that names the worker on it.
Needs what controller_running.py needs. Notices come at random times, so many a second on average, and once all at a
time for a tenth of the nodes, as when a zone runs out of spot capacity.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time

from controller_world import World, actions, in_parallel, metric, namespace, operator, until
from llmbatch.cluster.client import KubeClient

TAINT = {"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule", "value": "true"}


async def measure(kube: KubeClient, space: str, options: argparse.Namespace, seed: int) -> None:
    """Measure once."""
    world = World(kube, space)
    nodes = options.jobs * options.workers
    await world.add_jobs(options.jobs, options.workers)
    random_numbers = random.Random(seed)
    chosen = random_numbers.sample(range(nodes), options.notices + nodes // 10)
    async with world.heads():
        with operator(space):
            await until(lambda: len(world.heard) >= options.jobs)
            await asyncio.sleep(10)
            sent: dict[str, float] = {}
            for node in chosen[: options.notices]:
                await asyncio.sleep(random_numbers.expovariate(options.rate))
                await taint(kube, node, sent, options.workers)
            lost = await settle(world, sent)
            tell(f"seed {seed}, one by one, {options.rate:g} a second", world, sent, lost)
            sent = {}
            await in_parallel(taint(kube, node, sent, options.workers) for node in chosen[options.notices :])
            lost = await settle(world, sent)
            tell(f"seed {seed}, {len(sent)} of {nodes} nodes at once", world, sent, lost)
            writes, statuses = metric("llmbatch_api_writes_total"), metric("llmbatch_status_writes_total")
            print(f"API writes: {writes:.0f}, {statuses:.0f} of them statuses; {actions()}", flush=True)
    await world.remove_nodes()


async def taint(kube: KubeClient, node: int, sent: dict[str, float], workers: int) -> None:
    """Put a node on notice, and note when."""
    sent[f"j{node // workers:05}-spot-{node % workers:03}"] = time.monotonic()
    await kube.merge_patch(f"/api/v1/nodes/node-{node:05}", {"spec": {"taints": [TAINT]}})


async def settle(world: World, sent: dict[str, float]) -> int:
    """Wait until all arrived, a minute at most, and return how many did not."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: sent.keys() <= world.told.keys(), 60)
    return len(sent.keys() - world.told.keys())


def tell(title: str, world: World, sent: dict[str, float], lost: int) -> None:
    """Print the percentiles."""
    delays = sorted(world.told[worker] - began for worker, began in sent.items() if worker in world.told)
    p50, p90, p99 = (delays[min(len(delays) - 1, int(len(delays) * share))] for share in (0.5, 0.9, 0.99))
    print(
        f"{title}: {len(delays)} notices, p50 {p50:.2f} s, p90 {p90:.2f} s, p99 {p99:.2f} s, "
        f"longest {delays[-1]:.2f} s, {lost} never arrived",
        flush=True,
    )


async def main() -> None:
    """Measure once a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=10, help="of a job, each on a node of its own")
    parser.add_argument("--notices", type=int, default=300)
    parser.add_argument("--rate", type=float, default=5.0, help="notices a second")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        for seed in range(options.seeds):
            async with namespace(kube) as space:
                await measure(kube, space, options, seed)
    finally:
        await kube.close()


if __name__ == "__main__":
    asyncio.run(main())
