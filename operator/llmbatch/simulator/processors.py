"""Processor time that starting processes share."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

Process = TypeVar("Process")
DONE = 1e-9
"""Processor seconds that are none."""


class Processors(Generic[Process]):
    """Cores shared in equal parts; a process uses one at most. Times are seconds that do not go back."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._left: dict[Process, float] = {}
        self._now = 0.0

    def add(self, now: float, process: Process, seconds: float) -> None:
        """Let a process begin that needs some processor seconds."""
        self._advance(now)
        self._left[process] = seconds

    def remove(self, now: float, process: Process) -> None:
        """End a process, if it is there."""
        self._advance(now)
        self._left.pop(process, None)

    def done(self, now: float) -> list[Process]:
        """Return the processes that have had their time, and forget them."""
        self._advance(now)
        found = [process for process, left in self._left.items() if left <= DONE]
        for process in found:
            del self._left[process]
        return found

    def next_end(self) -> float:
        """Return when the next process has had its time; infinite where there is none."""
        return self._now + min(self._left.values(), default=math.inf) / self._speed()

    def _speed(self) -> float:
        return min(1.0, self._cores / max(1, len(self._left)))

    def _advance(self, now: float) -> None:
        had = (now - self._now) * self._speed()
        self._left = {process: left - had for process, left in self._left.items()}
        self._now = now
