"""Telling Ray of nodes that go, and how they went: with nothing on them in time, too late, or with work on them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from llmbatch.api.progress import Drains
from llmbatch.errors import TransientError

logger = logging.getLogger(__name__)

JUDGED_AFTER_SECONDS = 5.0
"""A node that is gone is judged after this long: that it took work along is known a little later than that it went."""


class NodeErrand:
    """Does one thing to nodes, beside the thread that schedules: that one must not wait for a node that is silent."""

    def __init__(self, do: Callable[..., None], pause_seconds: float = 0.0) -> None:
        """Run `do` with a node's id and what else is asked; where it fails, again after a pause."""
        self._do = do
        self._pause = pause_seconds
        self._lock = threading.Lock()
        self._asked: set[str] = set()

    def ask(self, node_id: str, *more: object) -> None:
        """See to it that it is done to a node, unless it is or is about to be. May be called at every tick."""
        with self._lock:
            if node_id in self._asked:
                return
            self._asked.add(node_id)
        threading.Thread(target=self._ask, args=(node_id, *more), name="errand", daemon=True).start()

    def _ask(self, node_id: str, *more: object) -> None:
        try:
            self._do(node_id, *more)
        except TransientError as error:
            logger.warning("%s; it is tried again", error)
        except Exception:
            # The end of a thread is seen by nobody, and the node would never be asked again.
            logger.exception("an errand to node %s failed; it is tried again", node_id)
        else:
            return
        time.sleep(self._pause)
        with self._lock:
            self._asked.remove(node_id)


class Departure(NamedTuple):
    """A node that went after a notice. Times are Unix seconds."""

    deadline: float
    """When it was to go."""
    empty_at: float
    """When nothing worked there any more, as far as anybody saw."""
    gone_at: float
    """When it was not there any more."""


class DrainTally:
    """Counts the announced departures of one attempt."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}
        self._empty_at: dict[str, float] = {}
        self._departures: dict[str, Departure] = {}
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
        torn: Collection[str],
        now: float,
    ) -> None:
        """Take note of how the nodes stand.

        Args:
            doomed: Deadline (Unix seconds) of each live node that a notice speaks of. One that is left out again
                while it lives was withdrawn.
            announced: Those of them that are not lost already: a loss out of the blue is no drain.
            live: The nodes there are.
            empty: Those on which nothing works.
            torn: The nodes that went with work on them.
            now: Unix seconds.
        """
        for node in announced:
            self._deadlines[node] = doomed[node]
            if node in empty:
                self._empty_at.setdefault(node, now)
            else:
                self._empty_at.pop(node, None)
        for node in [node for node in self._deadlines if node not in doomed]:
            deadline, empty_at = self._deadlines.pop(node), self._empty_at.pop(node, now)
            if node not in live:
                self._departures[node] = Departure(deadline, empty_at, now)
        self._judge(torn, now)

    def _judge(self, torn: Collection[str], now: float) -> None:
        for node, went in list(self._departures.items()):
            if now - went.gone_at >= JUDGED_AFTER_SECONDS:
                outcome = "missed" if node in torn else "clean" if went.empty_at <= went.deadline else "late"
                self._counts[outcome] += 1
                del self._departures[node]
