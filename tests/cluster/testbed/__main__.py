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
from testbed.controlplane import ControlPlane, is_established
from testbed.faults import MARKET, Faults
from testbed.kubelet import MARK, Kubelets
from testbed.network import Network
from testbed.store import Store

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
    store = Store(network.gateway, folder / "store.log") if arguments.spot else None
    try:
        plane.start(controllers=not arguments.api_only)
        await _serve(plane, network, store, folder, arguments, stop)
    finally:
        plane.stop()
        if store is not None:
            store.stop()
        network.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    parser.add_argument("--folder", type=Path, help="for all files; a new one below /tmp when left out")
    parser.add_argument(
        "--spot", type=int, default=0, help="spot nodes with a GPU each; with them come two on-demand nodes and S3"
    )
    parser.add_argument("--no-kuberay", action="store_true", help="leave out KubeRay's operator, not its CRDs")
    parser.add_argument("--api-only", action="store_true", help="etcd and the API server alone, for benchmarks")
    parser.add_argument("--no-llmbatch-crd", action="store_true", help="leave out llmbatch's own CRD")
    return parser.parse_args()


async def _serve(
    plane: ControlPlane,
    network: Network,
    store: Store | None,
    folder: Path,
    arguments: argparse.Namespace,
    stop: asyncio.Event,
) -> None:
    client = await KubeClient.connect(plane.kubeconfig)
    try:
        await _install(client, own=not arguments.no_llmbatch_crd)
        if not (arguments.no_kuberay or arguments.api_only):
            plane.start_kuberay()
        await _describe(client, network)
        network.hosts_of("default")  # for programs of this machine that ask for services by name
        if store is not None:
            await _create_nodes(client, arguments.spot)
            await _offer(client, store)
        api_server = f"{plane.address}:{plane.port}"
        nodes = Kubelets(client, network, folder / "pods", api_server, plane.certificate)
        kubelets = asyncio.create_task(_until(stop) if arguments.api_only else nodes.run())
        print(_usage(plane, store, folder), flush=True)
        _announce(folder, plane.kubeconfig)
        while not stop.is_set() and not kubelets.done():
            plane.check()
            try:
                await asyncio.wait_for(stop.wait(), HEALTH_SECONDS)
            except TimeoutError:
                continue
        kubelets.cancel()
        [ended] = await asyncio.gather(kubelets, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended
    finally:
        await client.close()


def _announce(folder: Path, kubeconfig: Path) -> None:
    """Write the file that says the cluster is ready; whoever waits for it never sees it without its content."""
    part = folder / "ready.part"
    part.write_text(str(kubeconfig))
    part.replace(folder / "ready")


def _usage(plane: ControlPlane, store: Store | None, folder: Path) -> str:
    variables = {"KUBECONFIG": str(plane.kubeconfig), **(store.environment if store else {})}
    return "\n".join(
        [
            *(f"export {name}={value}" for name, value in variables.items()),
            f"export PATH={_write_programs(folder / 'bin')}:$PATH",
            f"# Pods log to {folder}/pods/*/*.log. `faults --help`: what can happen to a node. Ctrl-C ends it all.",
        ]
    )


def _write_programs(folder: Path) -> Path:
    """Write kubectl, helm and faults, for a person and for scripts; helm is built when it is first called."""
    here = f"PYTHONPATH={Path(__file__).parents[1]} exec {sys.executable} -m testbed"
    folder.mkdir(exist_ok=True)
    for name, command in (
        ("kubectl", f"exec {binaries.path('controlplane')} kubectl"),
        ("helm", f"{here}.binaries helm"),
        ("faults", f"{here}.faults"),
    ):
        (folder / name).write_text(f'#!/bin/sh\n{command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


async def _describe(client: KubeClient, network: Network) -> None:
    """Leave a mark by which tests know these nodes, whose faults they may bring about."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MARK}, "data": {"gateway": network.gateway}}
    await client.create("/api/v1/namespaces/kube-system/configmaps", body)


async def _offer(client: KubeClient, store: Store) -> None:
    """Fill a bucket with the examples' data, and say in a Secret how jobs of the namespace default reach it."""
    store.wait()
    data = binaries.REPOSITORY / "examples" / "data"
    store.fill("corpus", [(str(file.relative_to(data)), file.read_bytes()) for file in data.glob("jargon/*")])
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": store.environment}
    await client.create("/api/v1/namespaces/default/secrets", secret)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


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
        if is_established(await client.get(path) or {}):
            return
        await asyncio.sleep(0.1)


async def _create_nodes(client: KubeClient, spot: int) -> None:
    faults = Faults(client)
    for number in range(2):
        await faults.come(f"on-demand-{number}", **{MARKET: "on-demand"})
    for number in range(spot):
        await faults.come(f"spot-{number}", **{MARKET: "spot"})


if __name__ == "__main__":
    asyncio.run(main())
