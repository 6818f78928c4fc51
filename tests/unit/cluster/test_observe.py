"""What a Snapshot says of questions that the API server refuses."""

from __future__ import annotations

import asyncio
from typing import Any

from controllerkit import NOW, SETTINGS, job, status
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import Observer
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
