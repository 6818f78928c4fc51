"""The desired state a run is told, from the control endpoint or from a trace: level-triggered, last word wins."""

from __future__ import annotations

import threading

from llmbatch.api.capacity import Capacity


class Desired:
    """Holds the newest Capacity. Thread-safe."""

    def __init__(self) -> None:
        self._capacity = Capacity()
        self._lock = threading.Lock()

    def offer(self, capacity: Capacity) -> bool:
        """Take `capacity` unless a newer one is here already; tell whether it was taken."""
        with self._lock:
            newer = capacity.sequence >= self._capacity.sequence
            if newer:
                self._capacity = capacity
            return newer

    def latest(self) -> Capacity:
        """Return the newest Capacity; an empty one until the first was offered."""
        with self._lock:
            return self._capacity
