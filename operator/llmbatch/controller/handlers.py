"""kopf's handlers: fill the indices, wake the loops. Each only translates and tells; none calls an API."""

from __future__ import annotations

from typing import Any

import kopf

from llmbatch.api.base import GROUP, VERSION
from llmbatch.api.crd import PLURAL
from llmbatch.cluster.projections import Body, cluster_of_pod, node_of, pod_of, ray_cluster_of
from llmbatch.controller.jobs import Jobs
from llmbatch.controller.watch import JobKey, Watch
from llmbatch.core.job.children.names import JOB_LABEL
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.core.preemption.classify import Classifier

RAY_CLUSTERS = ("ray.io", "v1", "rayclusters")
PODS = ("", "v1", "pods")
NODES = ("", "v1", "nodes")


class Handlers:
    """What kopf calls.

    kopf hands an event of a pod, node or RayCluster first to the index functions, then to the event handler; all see
    the memo of that object. They are called for each heartbeat too: a loop is woken only if what a Snapshot holds of
    the object differs from what the loop was woken for before.
    """

    def __init__(self, jobs: Jobs, watch: Watch, settings: OperatorSettings) -> None:
        self._jobs, self._watch, self._settings = jobs, watch, settings
        self._signals = Classifier(settings.signals)

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Register the handlers; those of nodes only where nodes are watched."""
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="job_changed")(self.job_changed)
        kopf.index(*RAY_CLUSTERS, registry=registry, id="ray_clusters")(self.index_ray_cluster)
        kopf.on.event(*RAY_CLUSTERS, registry=registry, id="ray_cluster_changed")(self.ray_cluster_changed)
        kopf.index(*PODS, registry=registry, id="pods")(self.index_pod)
        kopf.index(*PODS, registry=registry, id="jobs_by_node")(self.index_job_by_node)
        kopf.on.event(*PODS, registry=registry, id="pod_changed")(self.pod_changed)
        if self._watch.nodes_watched:
            kopf.index(*NODES, registry=registry, id="nodes")(self.index_node)
            kopf.on.event(*NODES, registry=registry, id="node_changed")(self.node_changed)

    async def job_changed(self, event: Body, **_: Any) -> None:
        """Hand a job to its loop, or end the loop."""
        body = dict(event["object"])
        metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
        key = JobKey(metadata["namespace"], metadata["name"])
        if event["type"] == "DELETED":
            self._jobs.gone(key, metadata["uid"])
        else:
            self._jobs.seen(key, {**body, "metadata": metadata})

    async def index_ray_cluster(self, body: Body, memo: kopf.Memo, **_: Any) -> dict[Any, Any]:
        """Index a RayCluster by namespace and name."""
        memo.now = ray_cluster_of(body)
        return {(body["metadata"]["namespace"], memo.now.name): memo.now}

    async def ray_cluster_changed(self, event: Body, body: Body, memo: kopf.Memo, **_: Any) -> None:
        """Wake the job of a RayCluster. Every write gives it a new version, most of them of no concern here."""
        now = memo.get("now")
        if _differs(event, memo, now and now.model_copy(update={"resource_version": ""})):
            self._jobs.wake(_job_of_child(body))

    async def index_pod(self, body: Body, memo: kopf.Memo, **_: Any) -> dict[Any, Any] | None:
        """Index a pod by namespace and RayCluster; one that only bears the label of a job, not at all."""
        memo.now = pod_of(body, self._settings.gpu_resource, self._signals.pod)
        return memo.now and {(body["metadata"]["namespace"], cluster_of_pod(body)): memo.now}

    async def index_job_by_node(self, body: Body, **_: Any) -> dict[Any, Any] | None:
        """Index the job of a pod by the pod's node."""
        node, job = body["spec"].get("nodeName"), _job_of_child(body)
        return {node: job[0]} if node and job else None

    async def pod_changed(self, event: Body, body: Body, memo: kopf.Memo, **_: Any) -> None:
        """Wake the job of a pod."""
        if _differs(event, memo, memo.get("now")):
            self._jobs.wake(_job_of_child(body))

    async def index_node(self, body: Body, memo: kopf.Memo, **_: Any) -> dict[Any, Any]:
        """Index a node by name."""
        memo.now = node_of(body, self._signals.node)
        return {memo.now.name: memo.now}

    async def node_changed(self, event: Body, name: str, memo: kopf.Memo, **_: Any) -> None:
        """Wake the jobs that have a pod on a node."""
        if _differs(event, memo, memo.get("now")):
            self._jobs.wake(self._watch.jobs_on(name))


def _differs(event: Body, memo: kopf.Memo, now: object) -> bool:
    if event["type"] == "DELETED":
        return True
    if "told" in memo and memo.told == now:
        return False
    memo.told = now
    return True


def _job_of_child(body: Body) -> list[JobKey]:
    name = (body["metadata"].get("labels") or {}).get(JOB_LABEL)
    return [JobKey(body["metadata"]["namespace"], name)] if name else []
