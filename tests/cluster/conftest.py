"""The cluster of these tests: one that is given (`LLMBATCH_TEST_KUBECONFIG`), else one made here for the session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import binaries

HERE = Path(__file__).parent
START_SECONDS = 300


def missing_rights() -> str:
    """Return why this machine cannot hold a test cluster; blank when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces"
    absent = [name for name in ("ip", "unshare", "nsenter", "chroot", "openssl") if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else ""


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the kubeconfig of an administrator of a cluster with KubeRay and llmbatch's CRD."""
    given = os.environ.get("LLMBATCH_TEST_KUBECONFIG")
    if given:
        yield Path(given)
        return
    if why := missing_rights():
        pytest.skip(f"no test cluster: {why}; or set LLMBATCH_TEST_KUBECONFIG")
    for program in ("controlplane", "kuberay-operator"):
        binaries.path(program)
    folder = tmp_path_factory.mktemp("cluster")
    with (folder / "testbed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed", "--folder", str(folder)],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stdout=log,
            stderr=log,
        )
    try:
        yield wait_until_ready(process, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> Path:
    """Return the kubeconfig once the cluster says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    ready = folder / "ready"
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the test cluster did not start:\n{(folder / 'testbed.log').read_text()[-3000:]}")
        time.sleep(0.2)
    return Path(ready.read_text())
