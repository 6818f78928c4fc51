"""Kueue as a process of this machine, with its webhooks, for RayClusters alone."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed import binaries
from testbed.controlplane import end_with_parent, free_port

MODULE = "sigs.k8s.io/kueue"
GROUPS = ("kueue.x-k8s.io", "ray.io")
_METRICS_CERTIFICATES = "etc/kueue/metrics/certs"
"""Kueue reads them there and nowhere else, so it gets an /etc of its own."""


class Kueue:
    """Kueue's manager. Its CustomResourceDefinitions and webhooks have to be created by the caller."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.log = folder / "kueue.log"
        self._folder = folder
        self._port, self._health = free_port("127.0.0.1"), free_port("127.0.0.1")
        self._certificates = folder / _METRICS_CERTIFICATES
        self._certificates.mkdir(parents=True)
        _make_certificate(self._certificates)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "KUBECONFIG": str(kubeconfig)},
                preexec_fn=end_with_parent,
            )

    @staticmethod
    def missing() -> str:
        """Return why Kueue cannot run here; blank when it can."""
        absent = [name for name in ("unshare", "mount", "openssl") if shutil.which(name) is None]
        return f"needs {', '.join(absent)}" if absent else "" if os.geteuid() == 0 else "needs root"

    @staticmethod
    def definitions() -> list[dict[str, Any]]:
        """Return the CustomResourceDefinitions; only their stored version is used, so nothing converts them."""
        folder = binaries.module(MODULE, "kueue") / "config/components/crd/bases"
        return [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]

    def webhooks(self) -> list[dict[str, Any]]:
        """Return the webhook configurations for the kinds of Kueue and KubeRay, pointing to this process."""
        manifest = binaries.module(MODULE, "kueue") / "config/components/webhook/manifests.yaml"
        configurations = list(yaml.safe_load_all(manifest.read_text()))
        authority = base64.b64encode((self._certificates / "tls.crt").read_bytes()).decode()
        for configuration in configurations:
            configuration["metadata"]["name"] = f"kueue-{configuration['metadata']['name']}"
            configuration["webhooks"] = [hook for hook in configuration["webhooks"] if _concerns(hook)]
            for hook in configuration["webhooks"]:
                path = hook["clientConfig"]["service"]["path"]
                hook["clientConfig"] = {"url": f"https://127.0.0.1:{self._port}{path}", "caBundle": authority}
        return configurations

    def check(self) -> None:
        """Raise when it has ended.

        Raises:
            RuntimeError: it holds the end of the log.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"Kueue ended with {self._process.returncode}:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        work = self._folder / "work"
        work.mkdir()
        configuration = self._folder / "kueue.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        layers = f"lowerdir=/etc,upperdir={self._folder / 'etc'},workdir={work}"
        script = f'mount -t overlay overlay -o {layers} /etc && exec "$@"'
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(binaries.path("kueue")),
            f"--config={configuration}",
        ]

    def _configuration(self) -> Mapping[str, Any]:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": "127.0.0.1", "port": self._port, "certDir": str(self._certificates)},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "integrations": {"frameworks": ["ray.io/raycluster"]},
            "featureGates": {"VisibilityOnDemand": False},
        }


def _concerns(hook: Mapping[str, Any]) -> bool:
    return any(rule["apiGroups"][0] in GROUPS for rule in hook["rules"])


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kueue",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "tls.key", "-out", folder / "tls.crt",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
