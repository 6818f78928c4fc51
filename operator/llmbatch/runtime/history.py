"""Progress over time, for a run's report."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmbatch.api.progress import Progress

MOST_POINTS = 2_000
"""More than a plot has pixels. Every half second of a day would be 172,800 documents."""


@dataclass(slots=True)
class History:
    """Keeps every progress, then every second, fourth, eighth one ...: never more than `MOST_POINTS`."""

    points: list[Progress] = field(default_factory=list)
    """What is kept, in order; evenly spaced where progress came evenly."""
    _seen: int = 0
    _stride: int = 1

    def add(self, progress: Progress) -> None:
        """Take in the next progress."""
        if self._seen % self._stride == 0:
            self.points.append(progress)
        self._seen += 1
        if len(self.points) > MOST_POINTS:
            self.points = self.points[::2]
            self._stride *= 2
