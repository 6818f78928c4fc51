"""Processes of a session: a run, its Ray and all that Ray starts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def members(leader: int) -> Iterator[int]:
    """Return the processes of a session."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                yield int(entry.name)


def end(leader: int) -> None:
    """Kill what is left of a session."""
    for pid in members(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Processor:
    """Processor time of a session, processes that have ended included."""

    def __init__(self, leader: int) -> None:
        """Count for the session of `leader`."""
        self._leader = leader
        self._seconds: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """User and system time of all processes, as far as `look` has seen it."""
        return sum(self._seconds.values())

    def look(self) -> None:
        """Take in the time of now. What a process did between the last look and its end is not counted."""
        for pid in members(self._leader):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._seconds[pid] = (int(fields[11]) + int(fields[12])) / TICKS
