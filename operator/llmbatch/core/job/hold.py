"""Holding a job back: suspended by the user, or its budget spent. Pause, then remove the cluster, then rest."""

from __future__ import annotations

from llmbatch.api.capacity import PAUSE_SECONDS
from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.draft import Draft
from llmbatch.core.job.ending import LEAVING_SECONDS, at_rest, delete_cluster
from llmbatch.core.job.facts import driver_lives, head_ready
from llmbatch.core.job.outcome import Outcome
from llmbatch.core.job.phase import PAUSING
from llmbatch.core.job.plan import SendCapacity
from llmbatch.core.job.running import capacity_for
from llmbatch.core.job.times import rfc3339, since

BUDGET = "BudgetExhausted"


def hold_reason(draft: Draft, spec: LLMBatchJobSpec) -> tuple[str, str] | None:
    """Return why the job is not to run now, as a reason and a sentence; None when it is."""
    if spec.suspend:
        return "SuspendedByUser", "spec.suspend is true"
    cost = draft.field("estimated_cost")
    if spec.budget is not None and cost is not None and cost >= spec.budget.max_cost:
        return BUDGET, f"spec.budget.maxCost {spec.budget.max_cost:g} is spent: raise it to go on"
    return None


def hold_back(draft: Draft, why: tuple[str, str], end: Outcome) -> None:
    """Bring the job to rest, a step a pass, losing nothing that can be committed in `PAUSE_SECONDS`."""
    snapshot = draft.snapshot
    reason, message = why
    draft.because(message)
    if reason == BUDGET:
        draft.set("Stalled", True, reason, message)
    else:
        draft.clear("Stalled", reason)
    if snapshot.cluster is None:
        draft.set("Suspended", True, reason, message)
        draft.update(pausing_since=None, retry_at=None)
        at_rest(draft, "Suspended")
        return
    draft.set("Suspended", False, PAUSING, message)
    if draft.field("pausing_since") is None:
        draft.update(pausing_since=rfc3339(snapshot.now))
    draft.again_in(LEAVING_SECONDS)
    waited = since(snapshot.now, draft.field("pausing_since"))
    if end.kind == "ongoing" and waited < PAUSE_SECONDS and _may_commit(draft):
        draft.act(SendCapacity(capacity=capacity_for(snapshot, pause=True)))
        return
    delete_cluster(draft)


def _may_commit(draft: Draft) -> bool:
    """Tell whether a driver may still have work to commit; one that a ready head hides for a moment counts."""
    snapshot = draft.snapshot
    if snapshot.ray.reachable:
        return driver_lives(snapshot)
    return head_ready(snapshot) and draft.stored.attempt_started_at is not None
