"""`python -m testbed`: a test cluster until Ctrl-C. Prints its KUBECONFIG when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
from pathlib import Path

import yaml

from llmbatch.api.crd import custom_resource_definition
from llmbatch.cluster.client import KubeClient
from testbed import binaries
from testbed.controlplane import ControlPlane
from testbed.kubelet import Kubelets, node
from testbed.network import Network

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HEALTH_SECONDS = 5.0


async def main() -> None:
    """Start everything, say so, and stop everything at the end."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="llmbatch-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("controlplane", "kuberay-operator"):
        binaries.path(name)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    network = Network(folder / "hosts")
    plane = ControlPlane(folder / "control-plane", network.gateway)
    try:
        plane.start()
        await _serve(plane, network, folder, arguments, stop)
    finally:
        plane.stop()
        network.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    parser.add_argument("--folder", type=Path, help="for all files; a new one below /tmp when left out")
    parser.add_argument("--spot", type=int, default=0, help="spot nodes with one GPU each")
    parser.add_argument("--no-llmbatch-crd", action="store_true", help="leave out llmbatch's own CRD")
    return parser.parse_args()


async def _serve(
    plane: ControlPlane, network: Network, folder: Path, arguments: argparse.Namespace, stop: asyncio.Event
) -> None:
    client = await KubeClient.connect(plane.kubeconfig)
    try:
        await _install(client, own=not arguments.no_llmbatch_crd)
        plane.start_kuberay()
        await _create_nodes(client, arguments.spot)
        kubelets = asyncio.create_task(
            Kubelets(client, network, folder / "pods", f"{plane.address}:{plane.port}").run()
        )
        ready = folder / "ready"
        ready.write_text(str(plane.kubeconfig))
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        print(f"alias kubectl='{binaries.path('controlplane')} kubectl'", flush=True)
        print(f"# logs of pods: {folder}/pods/*/*.log; Ctrl-C ends the cluster", flush=True)
        while not stop.is_set() and not kubelets.done():
            plane.check()
            try:
                await asyncio.wait_for(stop.wait(), HEALTH_SECONDS)
            except TimeoutError:
                continue
        kubelets.cancel()
        await asyncio.gather(kubelets, return_exceptions=True)
    finally:
        await client.close()


async def _install(client: KubeClient, *, own: bool) -> None:
    definitions = [yaml.safe_load(file.read_text()) for file in sorted(binaries.kuberay_crds().glob("*.yaml"))]
    if own:
        definitions.append(custom_resource_definition())
    for definition in definitions:
        name = definition["metadata"]["name"]
        await client.apply(f"{CRDS}/{name}", definition)
    for definition in definitions:
        await _established(client, f"{CRDS}/{definition['metadata']['name']}")


async def _established(client: KubeClient, path: str) -> None:
    while True:
        found = await client.get(path) or {}
        conditions = (found.get("status") or {}).get("conditions", [])
        if any(item["type"] == "Established" and item["status"] == "True" for item in conditions):
            return
        await asyncio.sleep(0.1)


async def _create_nodes(client: KubeClient, spot: int) -> None:
    if spot == 0:
        return
    await client.create("/api/v1/nodes", node("on-demand-0", 2, **{"example.com/capacity": "on-demand"}))
    for number in range(spot):
        await client.create("/api/v1/nodes", node(f"spot-{number}", 1, **{"example.com/capacity": "spot"}))


if __name__ == "__main__":
    asyncio.run(main())
