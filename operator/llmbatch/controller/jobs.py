"""The jobs there are, and the loop of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from llmbatch.controller.metrics import JobFigures
from llmbatch.controller.runner import JobRunner, Tools
from llmbatch.controller.watch import JobKey


class Jobs:
    """Starts a loop when a job appears and ends it when it is gone.

    A loop is a task of its own and not a kopf daemon: a daemon puts a finalizer on the user's object, and then
    neither the job nor its namespace can be deleted while no operator runs. Nothing here needs one, since every
    object that a job owns goes by garbage collection.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._runners: dict[JobKey, JobRunner] = {}
        self._tasks: dict[JobKey, asyncio.Task[None]] = {}

    def seen(self, key: JobKey, body: Mapping[str, Any]) -> None:
        """Take note of a job as a watch shows it.

        The events of one job come in their order, those of a namesake beside them: an earlier job's may come last.
        """
        runner = self._runners.get(key)
        if runner is not None and runner.uid != body["metadata"]["uid"]:
            if not runner.is_before(body):
                return
            self.gone(key, runner.uid)
            runner = None
        if runner is None:
            self._runners[key] = runner = JobRunner(key, body, self._tools)
            self._tasks[key] = asyncio.create_task(runner.run(), name=f"job {key.namespace}/{key.name}")
        else:
            runner.offer(body)

    def gone(self, key: JobKey, uid: str) -> None:
        """End the loop of a job that is gone; that of a namesake goes on."""
        runner = self._runners.get(key)
        if runner is not None and runner.uid == uid:
            del self._runners[key]
            runner.forget()
            self._tasks.pop(key).cancel()

    def wake(self, keys: Iterable[JobKey]) -> None:
        """Ask for a pass over each of these jobs now."""
        for key in keys:
            runner = self._runners.get(key)
            if runner is not None:
                runner.wake()

    def phases(self) -> Counter[str]:
        """Return how many jobs there are in each phase."""
        return Counter(runner.phase for runner in self._runners.values())

    def figures(self) -> list[JobFigures]:
        """Return what the last pass over each job saw; nothing of a job that is gone."""
        return [figures for runner in self._runners.values() if (figures := runner.figures) is not None]

    def longest_pass(self) -> float:
        """Return the age of the oldest pass that is still under way, in seconds."""
        now = time.monotonic()
        return max((now - began for r in self._runners.values() if (began := r.pass_began) is not None), default=0.0)

    async def close(self) -> None:
        """End every loop, between two requests or in one: whatever is cut off is done again after a restart."""
        tasks = list(self._tasks.values())
        self._runners.clear()
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
