"""What kopf's watches know: small projections of the objects, and who is to be woken by a change of one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import kopf

from llmbatch.api.crd import PLURAL
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient
from llmbatch.cluster.projections import ClusterPod
from llmbatch.core.job.snapshot import NodeObservation, RayClusterObservation

KUBERAY_SECONDS = 300.0
"""How long the answer that KubeRay is installed holds."""
ABSENT_SECONDS = 5.0
"""How long the answer that it is not holds, and how often a definition is looked for that is not there."""


class JobKey(NamedTuple):
    """A job by name."""

    namespace: str
    """Its namespace."""
    name: str
    """Its name."""


class Watch:
    """Implements `cluster.observe.Watched` over kopf's indices, which kopf fills before it calls any handler."""

    def __init__(self, kube: KubeClient, *, nodes_watched: bool) -> None:
        self._kube = kube
        self._nodes_watched = nodes_watched
        self._indices: dict[str, kopf.Index[Any, Any]] = {}
        self._kuberay: tuple[float, bool] | None = None

    def use(self, indices: dict[str, kopf.Index[Any, Any]]) -> None:
        """Read from these indices from now on."""
        self._indices = indices

    @property
    def nodes_watched(self) -> bool:
        """Whether nodes are watched at all."""
        return self._nodes_watched

    def ray_cluster(self, namespace: str, name: str) -> RayClusterObservation | None:
        """Return a RayCluster that bears llmbatch's labels, the later one where its predecessor is known as well."""
        found = self._values("ray_clusters", (namespace, name))
        return max(found, key=lambda seen: int(seen.resource_version), default=None)

    def pods(self, namespace: str, cluster: str) -> Iterable[ClusterPod]:
        """Return the pods of a RayCluster of that name, whichever uid it had."""
        return self._values("pods", (namespace, cluster))

    def node(self, name: str) -> NodeObservation | None:
        """Return a node; one that the watch does not know is None."""
        return next(iter(self._values("nodes", name)), None)

    def jobs_on(self, node: str) -> set[JobKey]:
        """Return the jobs that have a pod on a node."""
        return set(self._values("jobs_by_node", node))

    async def kuberay_installed(self) -> bool:
        """Tell whether the API server serves RayCluster of ray.io/v1.

        Raises:
            ApiServerError: it did not answer.
            ForbiddenError: the operator may not ask; the message names the path it may not get.
        """
        now = time.monotonic()
        if self._kuberay is not None:
            asked, installed = self._kuberay
            if now - asked < (KUBERAY_SECONDS if installed else ABSENT_SECONDS):
                return installed
        installed = await self._serves(paths.RAY_GROUP, "rayclusters")
        self._kuberay = (now, installed)
        return installed

    async def jobs_served(self) -> bool:
        """Tell whether the API server serves LLMBatchJob.

        Raises:
            ApiServerError: it did not answer.
            ForbiddenError: the operator may not ask; the message names the path it may not get.
        """
        return await self._serves(paths.JOB_GROUP, PLURAL)

    async def _serves(self, group: str, plural: str) -> bool:
        listed = await self._kube.get(group)
        return any(item["name"] == plural for item in (listed or {}).get("resources", ()))

    def _values(self, index: str, key: Any) -> Iterable[Any]:
        values: Iterable[Any] = self._indices.get(index, {}).get(key, ())
        return values
