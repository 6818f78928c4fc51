"""The one word for display, derived from the conditions and never read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmbatch.api.conditions import Condition

Phase = Literal["Pending", "Starting", "Running", "Suspending", "Suspended", "Stalled", "Complete", "Failed"]
PAUSING = "Pausing"
"""Reason of Suspended=False while the driver finishes what is in flight."""
HEAD_NOT_READY = "HeadNotReady"
"""Reason of ClusterReady=False from the first attempt on: one reason, so that a start is one write."""
HEAD_READY = "HeadReady"
"""Reason of ClusterReady=True."""
QUEUED = "Queued"
"""Reason of ClusterReady=False while a queue holds the RayCluster back."""


def phase_of(conditions: Sequence[Condition]) -> Phase:
    """Return the phase: the first line that holds, from the end of a job's life to its beginning."""
    status = {condition.type: condition.status == "True" for condition in conditions}
    reason = {condition.type: condition.reason for condition in conditions}
    lines: list[tuple[bool, Phase]] = [
        (status.get("Complete", False), "Complete"),
        (status.get("Failed", False), "Failed"),
        (not status.get("Accepted", False), "Pending"),
        (status.get("Suspended", False), "Suspended"),
        (reason.get("Suspended") == PAUSING, "Suspending"),
        (status.get("Stalled", False), "Stalled"),
        (status.get("Running", False), "Running"),
        (reason.get("ClusterReady") in (None, QUEUED), "Pending"),
    ]
    return next((phase for holds, phase in lines if holds), "Starting")
