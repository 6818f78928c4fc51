"""What a pass makes of watches of which one is ahead of the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllerkit import NOW, PODS, SETTINGS, UID, cluster, condition, job, running_status, spec, status
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.cluster.apply import Applier
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import Observer
from llmbatch.cluster.projections import ClusterPod
from llmbatch.core.job.children import build_children
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import CreateChild, DeleteRayCluster, PatchWorkerGroup
from llmbatch.core.job.snapshot import NodeObservation, PodObservation, RayClusterObservation
from llmbatch.errors import ApiServerError

ORDER = PatchWorkerGroup(
    cluster="summarise",
    uid="cluster-1",
    group="spot",
    index=0,
    from_replicas=4,
    replicas=2,
    workers_to_delete=("w0", "w1"),
)


def stored(*groups: dict[str, Any], suspend: bool = False) -> dict[str, Any]:
    """Return the RayCluster as the API server has it."""
    owner = {"kind": "LLMBatchJob", "name": "summarise", "uid": UID, "controller": True}
    metadata = {
        "name": "summarise",
        "namespace": "team",
        "uid": "cluster-1",
        "resourceVersion": "12",
        "ownerReferences": [owner],
        "labels": {"kueue.x-k8s.io/queue-name": "gpus"},
    }
    return {"metadata": metadata, "spec": {"workerGroupSpecs": list(groups), "suspend": suspend}}


class Kube:
    """An API server that takes each write, and knows at most a RayCluster."""

    def __init__(self, ray_cluster: dict[str, Any] | None = None) -> None:
        self._ray_cluster = ray_cluster

    async def json_patch(self, _: str, patch: list[dict[str, Any]]) -> dict[str, Any]:
        spot = {"groupName": "spot", "replicas": patch[3]["value"], "scaleStrategy": patch[4]["value"]}
        return stored(spot, {"groupName": "on-demand", "replicas": 0})

    async def create(self, *_: Any) -> dict[str, Any]:
        return stored()

    async def delete(self, *_: str) -> bool:
        return True

    async def get(self, path: str) -> dict[str, Any] | None:
        return self._ray_cluster if "rayclusters" in path else None


class Watches:
    """Watches in which the pods' deletion is there and the patch that caused it is not."""

    nodes_watched = True

    def __init__(self, seen: RayClusterObservation | None, pods: tuple[PodObservation, ...]) -> None:
        self._seen, self._pods = seen, pods

    def ray_cluster(self, *_: str) -> RayClusterObservation | None:
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
    memory = Memory(stored=cluster(resource_version="12"))
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


@pytest.mark.parametrize("suspend", [True, False])
def test_workers_that_a_queue_takes_back_are_no_preemption_before_the_watch_shows_that(suspend: bool):
    kube: Any = Kube(stored(suspend=suspend))
    heads: Any = None
    memory, watched = Memory(), cluster(resource_version="11", queue="gpus")

    async def passes() -> list[list[str]]:
        status, seen = running_status(), []
        for number, pods in enumerate((PODS, going("w0"), going("w1", without="w0"))):
            watches = Watches(watched, pods)
            snapshot = await Observer(kube, heads, watches, SETTINGS).observe(job(status=status), memory, NOW + number)
            status = decide(snapshot).status
            seen.append(told(status))
        return seen

    assert asyncio.run(passes()) == ([[], [], []] if suspend else [[], ["w0"], ["w0", "w1"]])


def test_a_cluster_that_could_not_be_asked_for_is_not_taken_for_deleted():
    """The pass ends with the error, and the next one asks again."""
    memory, watched = Memory(), cluster(resource_version="11", queue="gpus")
    heads: Any = None

    class Silent(Kube):
        async def get(self, path: str) -> dict[str, Any] | None:
            if "rayclusters" in path:
                raise ApiServerError("no answer")
            return await super().get(path)

    async def observed(kube: Any, pods: tuple[PodObservation, ...]) -> RayClusterObservation | None:
        observer = Observer(kube, heads, Watches(watched, pods), SETTINGS)
        return (await observer.observe(job(status=running_status()), memory, NOW)).cluster

    async def passes() -> RayClusterObservation | None:
        await observed(Kube(stored()), PODS)
        with pytest.raises(ApiServerError):
            await observed(Silent(), going("w0"))
        return await observed(Kube(stored()), going("w0"))

    seen = asyncio.run(passes())
    assert seen is not None
    assert not seen.deleting


def test_the_cluster_of_an_earlier_job_of_the_name_is_none_of_this_one():
    heads: Any = None
    watches = Watches(cluster(owner="an-earlier-uid"), PODS)
    here = job(status=running_status(attempt_started_at=None))
    kube: Any = Kube()
    snapshot = asyncio.run(Observer(kube, heads, watches, SETTINGS).observe(here, Memory(), NOW))
    assert (snapshot.cluster, snapshot.pods) == (None, ())


def test_a_job_is_not_suspended_while_the_watch_does_not_show_its_cluster_yet():
    heads: Any = None
    memory, settings = Memory(), SETTINGS
    [*_, manifest] = build_children(job(), spec(), settings, {})
    assert manifest["kind"] == "RayCluster"

    async def suspended(kube: Any, here: Any) -> Any:
        snapshot = await Observer(kube, heads, Watches(None, ()), settings).observe(here, memory, NOW)
        return next(item.status for item in decide(snapshot).status.conditions if item.type == "Suspended")

    async def passes() -> tuple[str, str]:
        first = status(condition("ClusterReady", holds=False), attempt=1, ray_cluster_name="summarise")
        here = job(status=first, spec=spec(suspend=True))
        there: Any = Kube(stored())
        await Applier(there, heads, "test").act(CreateChild(manifest=manifest), here, memory, None)
        return await suspended(there, here), await suspended(Kube(), here)

    assert asyncio.run(passes()) == ("False", "True")
