"""Helm, what the chart renders to, and a cluster to install it on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chartkit import Cluster, Rendered, render
from clusterkit import local_cluster, missing_rights


@pytest.fixture(scope="session")
def default() -> Rendered:
    """The chart with its default values."""
    return render()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with KubeRay and without anything of llmbatch's, with nodes that run pods and a store for jobs."""
    if why := missing_rights():
        pytest.skip(f"no test cluster: {why}")
    folder = tmp_path_factory.mktemp("cluster")
    with local_cluster(folder, "--no-llmbatch-crd", "--spot", "3") as kubeconfig:
        yield Cluster(kubeconfig, folder)
