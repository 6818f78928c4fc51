"""A bridge with a network namespace a pod, and the names of services in `/etc/hosts`."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Object = dict[str, Any]


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `ip`."""
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


class Network:
    """One bridge and its /16; several test clusters on one machine get one each.

    Raises:
        subprocess.CalledProcessError: no right to make a bridge.
    """

    def __init__(self, hosts: Path) -> None:
        self._bridge, number = _free_bridge()
        self._prefix = f"10.{200 + number}"
        self.gateway = f"{self._prefix}.0.1"
        """The machine's own address, as pods see it."""
        ip("addr", "add", f"{self.gateway}/16", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        self._numbers = itertools.count(260)
        self.hosts = hosts
        """The file that every pod mounts at /etc/hosts."""
        self.write_hosts([], [])

    def join(self, uid: str) -> tuple[str, str]:
        """Make a namespace on the bridge. Return its name and its address."""
        name, link = f"lbt-{uid[:8]}", f"lv{uid[:8]}"
        number = next(self._numbers)
        address = f"{self._prefix}.{number // 250}.{number % 250 + 2}"
        ip("netns", "add", name)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", link, "master", self._bridge, "up")
        ip("-n", name, "addr", "add", f"{address}/16", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "route", "add", "default", "via", self.gateway)
        return name, address

    def leave(self, name: str) -> None:
        """Remove a namespace."""
        ip("netns", "del", name, check=False)

    def close(self) -> None:
        """Remove the bridge."""
        ip("link", "del", self._bridge, check=False)

    def write_hosts(self, services: Iterable[Object], pods: Iterable[Object]) -> None:
        """Write the names of services with a selector, each with the address of its first running pod.

        A stand-in for cluster DNS and kube-proxy: a service's port has to be its pods' port.
        """
        placed = [pod for pod in pods if pod.get("status", {}).get("podIP")]
        lines = ["127.0.0.1 localhost"]
        for service in services:
            selector = service["spec"].get("selector")
            backends = [pod for pod in placed if selector and _selects(service, selector, pod)]
            if backends:
                name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
                names = f"{name}.{namespace}.svc.cluster.local {name}.{namespace}.svc {name}.{namespace} {name}"
                lines.append(f"{backends[0]['status']['podIP']} {names}")
        lines.extend(f"{pod['status']['podIP']} {pod['metadata']['name']}" for pod in placed)
        # Written in place: the pods hold a mount of this very file.
        self.hosts.write_text("\n".join(lines) + "\n")


def _free_bridge() -> tuple[str, int]:
    for number in range(50):
        made = ip("link", "add", f"lbt{number}", "type", "bridge", check=False)
        if made.returncode == 0:
            return f"lbt{number}", number
        if "File exists" not in made.stderr:
            made.check_returncode()
    raise RuntimeError("lbt0 to lbt49 are in use: remove bridges of test clusters that are gone with `ip link del`")


def _selects(service: Object, selector: Mapping[str, str], pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    same = pod["metadata"]["namespace"] == service["metadata"]["namespace"]
    return same and all(labels.get(key) == value for key, value in selector.items())
