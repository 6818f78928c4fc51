"""How workers on notice went: with nothing on them in time, too late, or with work on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from llmbatch.api.progress import Drains


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
        for node in [node for node in self._deadlines if node not in doomed]:
            deadline, empty_at = self._deadlines.pop(node), self._empty_at.pop(node, None)
            if node not in live:
                self._counts["missed" if empty_at is None else "clean" if empty_at <= deadline else "late"] += 1
