"""The cluster of these tests: one that is given (`LLMBATCH_TEST_KUBECONFIG`), else one made here for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.kubelet import MARK
from testbed.store import Store

from clusterkit import local_cluster, missing_rights
from operatorkit import kube


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the kubeconfig of an administrator of a cluster with KubeRay and llmbatch's CRD."""
    given = os.environ.get("LLMBATCH_TEST_KUBECONFIG")
    if given:
        yield Path(given)
        return
    if why := missing_rights():
        pytest.skip(f"no test cluster: {why}; or set LLMBATCH_TEST_KUBECONFIG")
    with local_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


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
