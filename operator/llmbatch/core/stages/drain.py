"""When a replica on a node that is about to go gets no more rows: as late as its last batch can still end.

Draining at the notice costs more rows than it saves; a notice that is shorter than a batch leaves no choice.
"""

from __future__ import annotations

from collections.abc import Iterable


def dispatch_ends(deadline: float, batch_p95_seconds: float, margin_seconds: float) -> float:
    """Return the time (Unix seconds) of the last dispatch before a node's deadline."""
    return deadline - batch_p95_seconds - margin_seconds


def drains_now(now: float, deadline: float | None, batch_p95_seconds: float, margin_seconds: float) -> bool:
    """Tell whether a replica on a node with this deadline gets no more rows; never without a deadline."""
    return deadline is not None and now >= dispatch_ends(deadline, batch_p95_seconds, margin_seconds)


def earliest(deadlines: Iterable[float | None]) -> float | None:
    """Return the deadline that counts when several notices are out for one node; None when all were withdrawn."""
    known = [deadline for deadline in deadlines if deadline is not None]
    return min(known, default=None)
