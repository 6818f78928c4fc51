"""How a run stands now, asked of its head: the stored status lags behind by minutes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbatch.api.progress import Progress
from llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient
    from llmbatch.cluster.proxied import ProxiedHead

ANSWER_SECONDS = 5.0
"""A head that a network policy hides from the API server would hold up a terminal for much longer."""


class Live(NamedTuple):
    """What a head said."""

    progress: Progress | None = None
    """The run's Progress."""
    trouble: str = ""
    """Why there is none of a driver that runs."""


class LiveJob:
    """Asks the head of one job, on the caller's own rights."""

    def __init__(self, kube: KubeClient, namespace: str, name: str) -> None:
        self._kube, self._namespace, self._name = kube, namespace, name
        self._head: ProxiedHead | None = None

    async def ask(self, job: dict[str, Any]) -> Live:
        """Return what the head says of a job that is stored so; nothing of one whose driver does not run."""
        if not _runs(job):
            return Live()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return Live(await self._progress())
        except TimeoutError:
            trouble = f"its head does not answer within {ANSWER_SECONDS:.0f} s"
        except LLMBatchError as error:
            trouble = str(error)
        self._head = None
        return Live(trouble=trouble)

    async def _progress(self) -> Progress:
        from llmbatch.cluster.proxied import ProxiedHead

        self._head = self._head or await ProxiedHead.find(self._kube, self._namespace, self._name)
        return await self._head.progress()


def _runs(job: dict[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Running" and condition["status"] == "True" for condition in conditions)
