"""What can happen to a node, and `python -m testbed.faults`: the same by hand, on the cluster of KUBECONFIG.

Each is a plain request to the API server, so kubectl does most of it as well: taint, cordon, drain, delete node.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from llmbatch.cluster.client import KubeClient
from testbed.kubelet import LOST, node
from testbed.pod import now

NODES = "/api/v1/nodes"
MARKET = "example.com/capacity"
"""The label by which the examples tell spot from on-demand nodes."""


class Faults:
    """What can happen to the nodes of a test cluster."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def come(self, name: str, *, gpus: int = 1, **labels: str) -> None:
        """A machine comes."""
        await self._client.create(NODES, node(name, gpus, **labels))

    async def vanish(self, name: str) -> None:
        """A machine is gone, and the cloud says so: SIGKILL to all its processes, and the Node object goes."""
        await self._client.delete(f"{NODES}/{name}")

    async def hang(self, name: str) -> None:
        """A machine is gone, and nobody says so: SIGKILL, the Node stays and its lease runs out."""
        await self._patch(name, {"metadata": {"annotations": {LOST: "true"}}})

    async def recover(self, name: str) -> None:
        """A machine that hung comes back, and its kubelet starts the pods' containers again."""
        await self._patch(name, {"metadata": {"annotations": {LOST: None}}})

    async def taint(self, name: str, key: str, value: str = "", effect: str = "NoSchedule") -> None:
        """Add a taint, as most notices are."""
        await self._taints(name, without=key, more=[{"key": key, "value": value, "effect": effect}])

    async def untaint(self, name: str, key: str) -> None:
        """Take a taint away."""
        await self._taints(name, without=key, more=[])

    async def cordon(self, name: str, *, on: bool = True) -> None:
        """Let no further pod on it, or again."""
        await self._patch(name, {"spec": {"unschedulable": on or None}})

    async def condition(self, name: str, kind: str, status: str = "True", reason: str = "Testbed") -> None:
        """Set a condition, as AKS and node problem detectors do."""
        seen = await self._client.get(f"{NODES}/{name}") or {}
        kept = [item for item in (seen.get("status") or {}).get("conditions", []) if item["type"] != kind]
        told = {"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now()}
        conditions = [*kept, {**told, "lastTransitionTime": now()}]
        await self._client.merge_patch(f"{NODES}/{name}/status", {"status": {"conditions": conditions}})

    async def _taints(self, name: str, *, without: str, more: list[dict[str, Any]]) -> None:
        seen = await self._client.get(f"{NODES}/{name}") or {}
        kept = [item for item in (seen.get("spec") or {}).get("taints") or [] if item["key"] != without]
        await self._patch(name, {"spec": {"taints": [*kept, *more] or None}})

    async def _patch(self, name: str, patch: dict[str, Any]) -> None:
        await self._client.merge_patch(f"{NODES}/{name}", patch)


async def _main() -> None:
    options = arguments()
    client = await KubeClient.connect()
    faults = Faults(client)
    name = options.node
    try:
        match options.fault:
            case "come":
                await faults.come(name, gpus=options.gpus, **{MARKET: options.market})
            case "vanish":
                await faults.vanish(name)
            case "hang":
                await faults.hang(name)
            case "recover":
                await faults.recover(name)
            case "taint":
                await faults.taint(name, options.key, options.value, options.effect)
            case "untaint":
                await faults.untaint(name, options.key)
            case "cordon":
                await faults.cordon(name)
            case "uncordon":
                await faults.cordon(name, on=False)
            case "condition":
                await faults.condition(name, options.type, options.status)
    finally:
        await client.close()


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m testbed.faults", description=__doc__)
    faults = parser.add_subparsers(dest="fault", required=True)
    found = {
        name: faults.add_parser(name, help=text, description=text)
        for name, text in (
            ("come", "a machine comes"),
            ("vanish", "a machine is gone without notice, and its Node object with it"),
            ("hang", "a machine is gone without notice, and nobody says so"),
            ("recover", "a machine that hung comes back"),
            ("taint", "add a taint"),
            ("untaint", "take a taint away"),
            ("cordon", "let no further pod on it"),
            ("uncordon", "let pods on it again"),
            ("condition", "set a condition"),
        )
    }
    for parts in found.values():
        parts.add_argument("node")
    found["come"].add_argument("--gpus", type=int, default=1)
    found["come"].add_argument("--market", choices=("spot", "on-demand"), default="spot", help=f"label {MARKET}")
    for name in ("taint", "untaint"):
        found[name].add_argument("key")
    found["taint"].add_argument("--value", default="")
    effects = ("NoSchedule", "PreferNoSchedule", "NoExecute")
    found["taint"].add_argument("--effect", choices=effects, default="NoSchedule")
    found["condition"].add_argument("type")
    found["condition"].add_argument("--status", choices=("True", "False", "Unknown"), default="True")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_main())
