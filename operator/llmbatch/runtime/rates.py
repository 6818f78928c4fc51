"""Rates of counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RATE_WINDOW_SECONDS = 10.0
"""Rates are means over this long, as Progress says."""


@dataclass(slots=True)
class Rate:
    """A counter's growth a second, over the last `RATE_WINDOW_SECONDS`."""

    _points: deque[tuple[float, float]] = field(default_factory=deque)

    def update(self, now: float, value: float) -> float:
        """Add one reading (seconds, count) and return the growth a second."""
        self._points.append((now, value))
        while len(self._points) > 2 and now - self._points[1][0] >= RATE_WINDOW_SECONDS:
            self._points.popleft()
        then, before = self._points[0]
        return (value - before) / (now - then) if now > then else 0.0
