"""What a Snapshot says of questions that the API server refuses."""

from __future__ import annotations

import asyncio
from typing import Any

from controllerkit import NOW, SETTINGS, UID, cluster, job, running_status, status
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import CHILDREN_SECONDS, Observer
from llmbatch.core.job.running import BLOCKED_SECONDS
from llmbatch.core.job.snapshot import ClusterFacts
from llmbatch.errors import ForbiddenError


class Watches:
    """Watches of an empty cluster whose API server gives these answers about KubeRay."""

    nodes_watched = True

    def __init__(self, *answers: bool | Exception) -> None:
        self._answers = list(answers)

    async def kuberay_installed(self) -> bool:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_where_kuberay_may_not_be_looked_for_the_job_says_so_until_it_may():
    async def passes() -> list[tuple[bool, tuple[str, ...]]]:
        unused: Any = None
        watches: Any = Watches(ForbiddenError('cannot get path "/apis/ray.io/v1"'), False)
        observer, memory = Observer(unused, unused, watches, SETTINGS), Memory()
        snapshots = [await observer.observe(job(status=status()), memory, NOW) for _ in range(2)]
        return [(snapshot.facts.kuberay_installed, snapshot.facts.forbidden) for snapshot in snapshots]

    assert asyncio.run(passes()) == [(True, ('cannot get path "/apis/ray.io/v1"',)), (False, ())]


class Running(Watches):
    """Watches of a job's RayCluster, whose pods are not there yet."""

    def ray_cluster(self, *_: str) -> Any:
        return cluster()

    def pods(self, *_: str) -> list[Any]:
        return []

    async def kuberay_installed(self) -> bool:
        return True


class Kube:
    """An API server that has every object it is asked for, and refuses while it is `confused`."""

    def __init__(self) -> None:
        self.confused = False
        self.asked: list[str] = []

    async def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        if self.confused:
            raise ForbiddenError("Unauthorized")
        owner = {"kind": "LLMBatchJob", "uid": UID, "controller": True}
        return {"metadata": {"name": path.rsplit("/", 1)[1], "ownerReferences": [owner]}}


def test_children_that_may_not_be_read_for_a_moment_are_there_and_asked_for_again_soon():
    kube: Any = Kube()
    heads: Any = None
    observer, memory, here = Observer(kube, heads, Running(), SETTINGS), Memory(), job(status=running_status())

    async def look(after: float, *, confused: bool = False) -> tuple[ClusterFacts, int, int]:
        kube.confused, kube.asked = confused, []
        snapshot = await observer.observe(here, memory, NOW + after)
        return snapshot.facts, len(snapshot.children), len(kube.asked)

    async def looks() -> list[tuple[ClusterFacts, int, int]]:
        await look(0)
        return [
            await look(CHILDREN_SECONDS, confused=True),
            await look(CHILDREN_SECONDS + 1),
            await look(CHILDREN_SECONDS + BLOCKED_SECONDS),
            await look(CHILDREN_SECONDS + 2 * BLOCKED_SECONDS),
        ]

    refused, well = ClusterFacts(forbidden=("Unauthorized",) * 4), ClusterFacts()
    assert asyncio.run(looks()) == [(refused, 4, 4), (refused, 4, 0), (well, 4, 4), (well, 4, 0)]
