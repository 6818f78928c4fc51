"""How fast the controller makes RayClusters, and what a restart with many jobs costs, on a real API server.

    KUBECONFIG=... python benchmarks/controller_rate.py --jobs 200 --runs 2

Needs the CRDs of llmbatch and KubeRay 1.6 on the API server, and KubeRay's operator running: its own rate, from the
first RayCluster to the last one with pods, is the baseline of the printed ratio. No node needs to take the pods.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from llmbatch.api.base import KIND
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient

NOWHERE = {"example.com/no": "such-node"}
PORT = 18080


def job(name: str) -> dict[str, Any]:
    """Return a job whose pods fit no node."""
    stage = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"gpus": 1}}
    return {
        "apiVersion": "llmbatch.dev/v1alpha1",
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "input": {"uri": "s3://in/*.jsonl", "format": "jsonl", "idField": "id"},
            "stages": [stage],
            "output": {"uri": f"s3://out/{name}/"},
            "capacity": {"spot": {"max": 1, "nodeSelector": NOWHERE}, "onDemand": {"nodeSelector": NOWHERE}},
        },
    }


def start(namespace: str) -> subprocess.Popen[bytes]:
    """Start an operator of one namespace as a process of its own."""
    program = str(Path(sys.executable).with_name("llmbatch"))
    return subprocess.Popen([program, "operator", "-n", namespace, "--port", str(PORT), "--log-level", "warning"])


def metric(name: str) -> float:
    """Return one figure of the operator's metrics; 0 before it is there."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).read().decode()
    except OSError:
        return 0.0
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


def cpu_and_memory(pid: int) -> tuple[float, float]:
    """Return CPU seconds so far and resident MB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def times(kube: KubeClient, namespace: str, count: int) -> tuple[float, float]:
    """Return how long it takes until every RayCluster is there, and until KubeRay made pods for each, in seconds."""
    began, made = time.monotonic(), 0.0
    while True:
        listed = (await kube.get(paths.collection("RayCluster", namespace)) or {})["items"]
        if len(listed) == count and not made:
            made = time.monotonic() - began
        with_pods = sum(bool((item.get("status") or {}).get("desiredWorkerReplicas")) for item in listed)
        if made and with_pods == count:
            return made, time.monotonic() - began
        await asyncio.sleep(0.5)


def restarted(namespace: str, count: int) -> tuple[float, float, float, float]:
    """Return seconds until each job had a pass after a restart, API writes, resident MB and CPU share at rest."""
    process = start(namespace)
    began = time.monotonic()
    try:
        while metric("llmbatch_pass_seconds_count") < count:
            time.sleep(0.25)
        took = time.monotonic() - began
        before, _ = cpu_and_memory(process.pid)
        time.sleep(20)
        after, memory = cpu_and_memory(process.pid)
        return took, metric("llmbatch_api_writes_total"), memory, (after - before) / 20
    finally:
        process.terminate()
        process.wait()


async def run(kube: KubeClient, count: int) -> None:
    """Measure once, in a namespace of its own."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    await kube.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    try:
        names = [f"j{index:05}" for index in range(count)]
        await asyncio.gather(*(kube.create(paths.collection(KIND, namespace), job(name)) for name in names))
        process = start(namespace)
        try:
            ours, kuberays = await times(kube, namespace, count)
            await asyncio.sleep(10)
            writes = metric("llmbatch_api_writes_total") / count
        finally:
            process.terminate()
            process.wait()
        took, again, memory, share = restarted(namespace, count)
    finally:
        await kube.delete(f"/api/v1/namespaces/{namespace}")
    ratio = kuberays / ours
    print(
        f"{count} jobs: {count / ours:.1f} RayClusters/s (with start-up), KubeRay {count / kuberays:.1f}/s, "
        f"ratio {ratio:.2f}; {writes:.1f} API writes a job; restart: a pass over each in {took:.1f} s, "
        f"{again:.0f} writes, {memory:.0f} MB, {share:.0%} of a core"
    )


async def main() -> None:
    """Measure as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    kube = await KubeClient.connect()
    try:
        for _ in range(options.runs):
            await run(kube, options.jobs)
    finally:
        await kube.close()


if __name__ == "__main__":
    asyncio.run(main())
