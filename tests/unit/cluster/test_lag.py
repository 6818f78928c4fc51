"""What a pass makes of watches of which one is ahead of the other."""

from __future__ import annotations

import asyncio
from typing import Any

from controllerkit import NOW, PODS, SETTINGS, cluster, job, running_status
from llmbatch.cluster.apply import Applier
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import Observer
from llmbatch.cluster.projections import ClusterPod
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import PatchWorkerGroup
from llmbatch.core.job.snapshot import NodeObservation, PodObservation, RayClusterObservation

ORDER = PatchWorkerGroup(
    cluster="summarise",
    uid="cluster-1",
    group="spot",
    index=0,
    from_replicas=4,
    replicas=2,
    workers_to_delete=("w0", "w1"),
)


class Kube:
    """An API server that takes a patch, and knows nothing else."""

    async def json_patch(self, _: str, patch: list[dict[str, Any]]) -> dict[str, Any]:
        spot = {"groupName": "spot", "replicas": patch[3]["value"], "scaleStrategy": patch[4]["value"]}
        metadata = {"name": "summarise", "namespace": "team", "uid": "cluster-1", "resourceVersion": "12"}
        return {"metadata": metadata, "spec": {"workerGroupSpecs": [spot, {"groupName": "on-demand", "replicas": 0}]}}

    async def get(self, _: str) -> None:
        return None


class Watches:
    """Watches in which the pods' deletion is there and the patch that caused it is not."""

    nodes_watched = True

    def __init__(self, seen: RayClusterObservation, pods: tuple[PodObservation, ...]) -> None:
        self._seen, self._pods = seen, pods

    def ray_cluster(self, *_: str) -> RayClusterObservation:
        return self._seen

    def pods(self, *_: str) -> list[ClusterPod]:
        return [ClusterPod(cluster_uid="cluster-1", pod=pod) for pod in self._pods]

    def node(self, name: str) -> NodeObservation:
        return NodeObservation(name=name)

    async def kuberay_installed(self) -> bool:
        return True


def preempted_after_the_order(seen: RayClusterObservation) -> list[str]:
    """Return the workers that a pass counts after two were told to go, and one more went by itself."""
    pods = tuple(pod.model_copy(update={"terminating": pod.name in ("w0", "w1", "w2")}) for pod in PODS)
    kube: Any = Kube()
    heads: Any = None
    here, memory = job(status=running_status()), Memory()

    async def passed() -> list[str]:
        await Applier(kube, heads, "test").act(ORDER, here, memory, None)
        snapshot = await Observer(kube, heads, Watches(seen, pods), SETTINGS).observe(here, memory, NOW)
        preemptions = decide(snapshot).status.preemptions
        return [] if preemptions is None else [loss.worker for loss in preemptions.recent]

    return asyncio.run(passed())


def test_workers_told_to_go_are_no_preemption_before_the_watch_shows_the_order():
    assert preempted_after_the_order(cluster(resource_version="11")) == ["w2"]


def test_what_the_watch_shows_later_counts():
    assert preempted_after_the_order(cluster(resource_version="13")) == ["w0", "w1", "w2"]


def test_a_namesake_is_not_taken_for_the_cluster_that_was_patched():
    other = cluster(uid="cluster-2", resource_version="11")
    memory = Memory(patched=cluster(resource_version="12"))
    assert memory.latest(other) == other
    assert memory.latest(None) is None
