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
from testbed.kubelet import MARK
from testbed.store import Store

from operatorkit import kube

HERE = Path(__file__).parent
START_SECONDS = 300


def missing_rights() -> str:
    """Return why this machine cannot hold a test cluster; blank when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces"
    absent = [name for name in ("ip", "unshare", "nsenter", "chroot", "openssl") if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "ip", "link", "add", "probe", "type", "bridge"]
    tried = subprocess.run(probe, capture_output=True, text=True)
    return f"needs namespaces and a bridge: {tried.stderr.strip()}" if tried.returncode else ""


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


@pytest.fixture(scope="session")
def testbed_gateway(kubeconfig: Path) -> str:
    """Return this machine's address as the pods of a cluster of ours see it: its nodes may be broken at will."""
    with kube(kubeconfig) as api:
        mark = api.get_at(f"/api/v1/namespaces/kube-system/configmaps/{MARK}")
    if mark is None:
        pytest.skip("needs the nodes of `make cluster`: those of LLMBATCH_TEST_KUBECONFIG are somebody else's")
    return str(mark["data"]["gateway"])


@pytest.fixture(scope="session")
def store(testbed_gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return an S3 server that the pods and this process reach."""
    made = Store(testbed_gateway, tmp_path_factory.mktemp("store") / "store.log")
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> Path:
    """Return the kubeconfig once the cluster says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    ready = folder / "ready"
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the test cluster did not start:\n{(folder / 'testbed.log').read_text()[-3000:]}")
        time.sleep(0.2)
    return Path(ready.read_text())
