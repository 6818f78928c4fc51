"""What a pass makes of watches of which one is ahead of the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllerkit import NOW, PODS, SETTINGS, cluster, job, running_status
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.cluster.apply import Applier
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import Observer
from llmbatch.cluster.projections import ClusterPod
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import DeleteRayCluster, PatchWorkerGroup
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

    async def delete(self, *_: str) -> bool:
        return True

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


def going(*names: str, without: str = "") -> tuple[PodObservation, ...]:
    """Return the pods, of which these terminate and one is no longer there."""
    there = (pod for pod in PODS if pod.name != without)
    return tuple(pod.model_copy(update={"terminating": pod.name in names}) for pod in there)


def told(status: LLMBatchJobStatus) -> list[str]:
    """Return the workers that a status tells as preempted."""
    return [] if status.preemptions is None else [loss.worker for loss in status.preemptions.recent]


def preempted_after_the_order(seen: RayClusterObservation) -> list[str]:
    """Return the workers that a pass counts after two were told to go, and one more went by itself."""
    pods = going("w0", "w1", "w2")
    kube: Any = Kube()
    heads: Any = None
    here, memory = job(status=running_status()), Memory()

    async def passed() -> list[str]:
        await Applier(kube, heads, "test").act(ORDER, here, memory, None)
        snapshot = await Observer(kube, heads, Watches(seen, pods), SETTINGS).observe(here, memory, NOW)
        return told(decide(snapshot).status)

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


def test_workers_of_a_cluster_that_was_deleted_are_no_preemption_before_the_watch_shows_that():
    kube: Any = Kube()
    heads: Any = None
    here, memory = job(status=running_status(attempt=2, attempt_started_at=None)), Memory()

    async def passed() -> LLMBatchJobStatus:
        order = DeleteRayCluster(name="summarise", uid="cluster-1")
        await Applier(kube, heads, "test").act(order, here, memory, None)
        watches = Watches(cluster(resource_version="11"), going("w0", "w1"))
        return decide(await Observer(kube, heads, watches, SETTINGS).observe(here, memory, NOW)).status

    assert told(asyncio.run(passed())) == []


@pytest.mark.parametrize("written", [True, False], ids=["written at once", "the first write fails"])
def test_a_worker_that_went_before_it_was_named_is_a_preemption_counted_once(written: bool):
    """Whatever terminates is named when its group is sized, before the status that counts it is written."""
    kube: Any = Kube()
    heads: Any = None
    memory = Memory()
    named = tuple(group.model_copy(update={"workers_to_delete": ("w2",)}) for group in cluster().groups)
    looks = [
        (cluster(resource_version="11"), going("w2")),
        (cluster(resource_version="12", groups=named), going("w2")),
        (cluster(resource_version="12", groups=named), going(without="w2")),
        (cluster(resource_version="12", groups=named), going(without="w2")),
    ]

    async def passes() -> list[list[str]]:
        status, seen = running_status(), []
        for number, look in enumerate(looks):
            here = job(status=status)
            snapshot = await Observer(kube, heads, Watches(*look), SETTINGS).observe(here, memory, NOW + number)
            if number > 0 or written:
                status = decide(snapshot).status
            seen.append(told(status))
        return seen

    assert asyncio.run(passes())[2:] == [["w2"], ["w2"]]
