"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler and KubeRay as processes of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed import binaries

START_SECONDS = 240.0
_PORTS = range(20_000, 32_000)
_first = os.getpid() * 97 % len(_PORTS)  # so that processes which start together look at different ones
_ports = itertools.cycle([*_PORTS[_first:], *_PORTS[:_first]])


class ControlPlane:
    """The processes, their files below a folder, and the kubeconfig of an administrator."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port(address)
        self.kubeconfig = folder / "kubeconfig"
        self._token = secrets.token_urlsafe(24)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def certificate(self) -> Path:
        """The certificate authority of the API server."""
        return self.folder / "certs" / "apiserver.crt"

    def start(self, *, controllers: bool = True) -> None:
        """Start all of it but KubeRay, and return when the API server is ready.

        Args:
            controllers: Whether kube-controller-manager and kube-scheduler are started as well.

        Raises:
            RuntimeError: a component ended, or is not ready in time; its log is named.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_secrets()
        self._start_api_server(self._start_etcd())
        self._wait_for_api_server()
        if controllers:
            self._start_controllers()

    def _start_controllers(self) -> None:
        kubeconfig = f"--kubeconfig={self.kubeconfig}"
        self._start(
            "kube-controller-manager",
            kubeconfig,
            f"--secure-port={free_port('127.0.0.1')}",
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--controllers=*,-cloud-node-lifecycle-controller,-service-lb-controller",
            "--node-monitor-grace-period=40s",
            "--concurrent-gc-syncs=4",
        )
        self._start(
            "kube-scheduler",
            kubeconfig,
            f"--secure-port={free_port('127.0.0.1')}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        )

    def start_kuberay(self) -> None:
        """Start the KubeRay operator; its CRDs have to be there."""
        self._launch(
            "kuberay-operator",
            [
                str(binaries.path("kuberay-operator")),
                f"--metrics-addr=127.0.0.1:{free_port('127.0.0.1')}",
                f"--health-probe-bind-address=127.0.0.1:{free_port('127.0.0.1')}",
                "--enable-leader-election=false",
            ],
            {"KUBECONFIG": str(self.kubeconfig)},
        )

    def check(self) -> None:
        """Raise when a component has ended.

        Raises:
            RuntimeError: it names the component's log.
        """
        for process in self._processes:
            if process.poll() is not None:
                name = Path(process.args[0]).name  # type: ignore[index, arg-type]
                raise RuntimeError(f"{name} ended with {process.returncode}: see {self.folder}/*.log")

    def stop(self) -> None:
        """End every process, the last started first."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write_secrets(self) -> None:
        subprocess.run(
            ["openssl", "genrsa", "-out", self.folder / "service-accounts.key", "2048"], check=True, capture_output=True
        )
        (self.folder / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        (self.folder / "tokens.csv").chmod(0o600)
        cluster = {"server": f"https://{self.address}:{self.port}", "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin"}}],
            "current-context": "testbed",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.kubeconfig.chmod(0o600)

    def _start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
        self._start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        return client

    def _start_api_server(self, etcd: str) -> None:
        self._start(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--bind-address={self.address}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--service-account-key-file={self.folder / 'service-accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'service-accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
        )

    def _wait_for_api_server(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        request = urllib.request.Request(
            f"https://{self.address}:{self.port}/readyz", headers={"Authorization": f"Bearer {self._token}"}
        )
        while time.monotonic() < deadline:
            self.check()
            try:
                context = ssl.create_default_context(cafile=str(self.certificate))
                with urllib.request.urlopen(request, timeout=5, context=context):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the API server is not ready after {START_SECONDS:.0f} s: see {self.folder}/*.log")

    def _start(self, component: str, *arguments: str) -> None:
        self._launch(component, [str(binaries.path("controlplane")), component, *arguments], {})

    def _launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environment},
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
            )


def is_established(definition: dict[str, Any]) -> bool:
    """Tell whether the API server serves the kind of a CustomResourceDefinition."""
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any((item["type"], item["status"]) == ("Established", "True") for item in conditions)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port(address: str) -> int:
    """Return a port of this machine's address that nobody listens on, each time another one.

    It lies below those that the kernel gives to connections: one of these may take it before it is listened on.
    """
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise AssertionError("the ports do not end")
