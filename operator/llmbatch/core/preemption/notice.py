"""Notice: that a node or pod will go, or has gone. Many signs make one notice."""

from __future__ import annotations

from collections.abc import Iterable

from llmbatch.api.base import Document
from llmbatch.core.preemption.signals import Loss, NoticeKind

SEVERITY: tuple[NoticeKind, ...] = ("advisory", "draining", "reclaim", "lost")
"""From the weakest to the strongest."""


class Notice(Document):
    """That a node or pod will go, or has gone."""

    kind: NoticeKind
    """advisory (may go; nothing is drained), draining (asked to leave), reclaim (killed at the deadline) or lost."""
    source: str
    """The signal that says so: a taint, a condition, the pod's deletion."""
    deadline: float | None = None
    """When it is killed, Unix seconds, where the object says so."""
    lead_seconds: float | None = None
    """Shortest time from the first sight of it to the kill, where the object says neither when it was set nor when."""
    observed_at: float | None = None
    """When the sign was set, Unix seconds, where the object says so."""
    spot_only: bool = False
    """Whether it means anything on spot capacity only."""
    loss: Loss = "preemption"
    """Which budget a worker lost to it counts against."""

    @property
    def dooms(self) -> bool:
        """Whether the worker goes; an advisory is no reason to give one up."""
        return self.kind != "advisory"

    def seen(self, first_seen: float, *, spot: bool) -> Notice:
        """Return the notice as it counts for one worker.

        Args:
            first_seen: When the worker was first known to be on notice, Unix seconds, for where the object has no time.
            spot: Whether the worker is on spot capacity.
        """
        if self.spot_only and not spot:
            return self.model_copy(update={"kind": "advisory", "deadline": None, "lead_seconds": None})
        due = None if self.lead_seconds is None else first_seen + self.lead_seconds
        return self.model_copy(update={"deadline": _least((self.deadline, due)), "lead_seconds": None})


def merged(notices: Iterable[Notice | None]) -> Notice | None:
    """Return one notice for many: the strongest kind and its source, the earliest deadline of those that doom.

    A loss counts as a preemption as soon as one of them says so: an evicted pod fails as well. Order does not matter.
    """
    there = [notice for notice in notices if notice is not None]
    if not there:
        return None
    dooming = [notice for notice in there if notice.dooms]
    counting = dooming or there
    strongest = max(there, key=_strength)
    return strongest.model_copy(
        update={
            "deadline": _least(notice.deadline for notice in dooming),
            "lead_seconds": _least(notice.lead_seconds for notice in dooming),
            "observed_at": _least(notice.observed_at for notice in counting),
            "loss": "preemption" if any(notice.loss == "preemption" for notice in counting) else "failure",
        }
    )


def _strength(notice: Notice) -> tuple[int, bool, bool, str]:
    return SEVERITY.index(notice.kind), not notice.spot_only, notice.loss == "preemption", notice.source


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
