"""A test cluster for a session: `python -m testbed` as a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testbed import binaries
from testbed.controlplane import end_with_parent

TESTBED = Path(__file__).parent / "cluster"
START_SECONDS = 300


def missing_rights() -> str:
    """Return why this machine cannot hold a test cluster; blank when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces"
    absent = [name for name in ("ip", "unshare", "nsenter", "chroot", "openssl") if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    name = f"lbt-p{os.getpid()}"
    bridge = f"ip link add {name} type bridge && ip link del {name}"
    probe = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", bridge]
    tried = subprocess.run(probe, capture_output=True, text=True)
    return f"needs namespaces and a bridge: {tried.stderr.strip()}" if tried.returncode else ""


@contextmanager
def local_cluster(folder: Path, *options: str) -> Iterator[Path]:
    """Start a test cluster, and return the kubeconfig of its administrator; end it in the end."""
    for program in ("controlplane", "kuberay-operator"):
        binaries.path(program)
    with (folder / "testbed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed", "--folder", str(folder), *options],
            env={**os.environ, "PYTHONPATH": str(TESTBED)},
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        yield _wait_until_ready(process, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> Path:
    """Return the kubeconfig once the cluster says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    ready = folder / "ready"
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the test cluster did not start:\n{(folder / 'testbed.log').read_text()[-3000:]}")
        time.sleep(0.2)
    return Path(ready.read_text())
