"""A bridge with a network namespace a pod, and the names of services in `/etc/hosts`."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Object = dict[str, Any]
NO_HOSTS = "127.0.0.1 localhost\n"


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `ip`."""
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


class Network:
    """One bridge and its /16; several test clusters on one machine get one each.

    Raises:
        subprocess.CalledProcessError: no right to make a bridge.
    """

    def __init__(self, hosts: Path) -> None:
        hosts.mkdir(exist_ok=True)
        self._bridge, number = _free_bridge()
        self._prefix = f"10.{200 + number}"
        self.gateway = f"{self._prefix}.0.1"
        """The machine's own address, as pods see it."""
        ip("addr", "add", f"{self.gateway}/16", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        self._numbers = itertools.count(260)
        self._hosts = hosts
        self._written: dict[str, str] = {}
        """What each namespace's file holds."""

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

    def hosts_of(self, namespace: str) -> Path:
        """Return the file that every pod of a namespace mounts at /etc/hosts."""
        file = self._hosts / namespace
        if namespace not in self._written:
            self._write(namespace, NO_HOSTS)
        return file

    def write_hosts(self, services: Sequence[Object], pods: Iterable[Object]) -> None:
        """Write the names of services with a selector, each with the address of a pod behind it.

        A stand-in for cluster DNS and kube-proxy: a service's port has to be its pods' port, and all requests go to
        one pod, the newest that runs.
        """
        placed = [pod for pod in pods if pod.get("status", {}).get("podIP")]
        addresses = [(service["metadata"], _backend(service, placed)) for service in services]
        for namespace in self._written:
            lines = [NO_HOSTS]
            for service, address in addresses:
                if address:
                    lines.append(f"{address} {' '.join(_names(service['name'], service['namespace'], namespace))}\n")
            lines += [
                f"{pod['status']['podIP']} {pod['metadata']['name']}\n"
                for pod in placed
                if pod["metadata"]["namespace"] == namespace
            ]
            self._write(namespace, "".join(lines))

    def _write(self, namespace: str, text: str) -> None:
        if self._written.get(namespace) == text:
            return
        self._written[namespace] = text
        # In place, since pods hold a mount of this very file, and in one write: one reads it at this moment.
        with (self._hosts / namespace).open("r+" if (self._hosts / namespace).exists() else "w") as file:
            file.write(text)
            file.truncate()


def _free_bridge() -> tuple[str, int]:
    for number in range(50):
        made = ip("link", "add", f"lbt{number}", "type", "bridge", check=False)
        if made.returncode == 0:
            return f"lbt{number}", number
        if "File exists" not in made.stderr:
            made.check_returncode()
    raise RuntimeError("lbt0 to lbt49 are in use: remove bridges of test clusters that are gone with `ip link del`")


def _names(service: str, namespace: str, of: str) -> list[str]:
    names = [f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}.svc", f"{service}.{namespace}"]
    return [*names, service] if namespace == of else names


def _backend(service: Object, pods: Iterable[Object]) -> str:
    """Return the address of the newest pod that a service selects and that stays, blank where there is none."""
    selector = service["spec"].get("selector")
    staying = [
        pod
        for pod in pods
        if selector
        and "deletionTimestamp" not in pod["metadata"]
        and pod["status"].get("phase") in ("Pending", "Running")
        and _selects(service, selector, pod)
    ]
    newest = max(staying, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
    return "" if newest is None else str(newest["status"]["podIP"])


def _selects(service: Object, selector: Mapping[str, str], pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    same = pod["metadata"]["namespace"] == service["metadata"]["namespace"]
    return same and all(labels.get(key) == value for key, value in selector.items())
