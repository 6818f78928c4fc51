"""Draining nodes on notice, and how they went: with nothing on them in time, too late, or with work on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from llmbatch.api.progress import Drains
from llmbatch.errors import TransientError

logger = logging.getLogger(__name__)


class Drainer:
    """Drains nodes beside the thread that schedules, which must not wait for a node that has fallen silent."""

    def __init__(self, drain: Callable[[str, float, str], None]) -> None:
        """Drain with `drain`, which is given a node's id, a deadline (Unix seconds) and a reason.

        It raises TransientError where asking again may help.
        """
        self._drain = drain
        self._lock = threading.Lock()
        self._asked: set[str] = set()

    def ask(self, node_id: str, deadline: float) -> None:
        """See to it that a node is drained, unless it is or is about to be. May be called at every tick."""
        with self._lock:
            if node_id in self._asked:
                return
            self._asked.add(node_id)
        threading.Thread(target=self._ask, args=(node_id, deadline), name="drain", daemon=True).start()

    def _ask(self, node_id: str, deadline: float) -> None:
        try:
            self._drain(node_id, deadline, "preemption notice")
        except TransientError as error:
            logger.warning("%s; the next tick tries again", error)
            with self._lock:
                self._asked.remove(node_id)


class DrainTally:
    """Counts the announced departures of one attempt."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}
        self._empty_at: dict[str, float] = {}
        self._counts = {"clean": 0, "late": 0, "missed": 0}

    def counts(self) -> Drains:
        """Return the counts so far."""
        return Drains(**self._counts)

    def update(
        self,
        doomed: Mapping[str, float],
        announced: Collection[str],
        live: Collection[str],
        empty: Collection[str],
        now: float,
    ) -> None:
        """Take note of how the nodes stand.

        Args:
            doomed: Deadline (Unix seconds) of each live node that a notice speaks of. One that is left out again
                while it lives was withdrawn.
            announced: Those of them that are not lost already: a loss out of the blue is no drain.
            live: The nodes there are.
            empty: Those on which nothing works any more.
            now: Unix seconds.
        """
        for node in announced:
            self._deadlines[node] = doomed[node]
            if node in empty:
                self._empty_at.setdefault(node, now)
            else:
                self._empty_at.pop(node, None)
        for node in [node for node in self._deadlines if node not in doomed]:
            deadline, empty_at = self._deadlines.pop(node), self._empty_at.pop(node, None)
            if node not in live:
                self._counts["missed" if empty_at is None else "clean" if empty_at <= deadline else "late"] += 1
