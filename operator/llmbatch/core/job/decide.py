"""`decide()`: from one Snapshot to one Plan. Total, and a function of its argument alone."""

from __future__ import annotations

from llmbatch.api.job import CapacityStatus, LLMBatchJobSpec
from llmbatch.core.job.admission import check_admission
from llmbatch.core.job.children.cluster import build_ray_cluster
from llmbatch.core.job.children.names import cluster_name
from llmbatch.core.job.draft import Draft
from llmbatch.core.job.ending import clean_up, complete, fail, finished, intend, next_attempt
from llmbatch.core.job.facts import held_by_queue, leaving, present_progress, shrinking, workers, workers_to_count
from llmbatch.core.job.hold import hold_back, hold_reason
from llmbatch.core.job.numbers import accrued_cost, counted_preemptions, merged_rows, ready_gpus, stages_of
from llmbatch.core.job.outcome import Outcome, outcome
from llmbatch.core.job.plan import Plan
from llmbatch.core.job.running import expect, run
from llmbatch.core.job.snapshot import Snapshot
from llmbatch.core.job.times import rfc3339, unix
from llmbatch.errors import SpecError


def decide(snapshot: Snapshot) -> Plan:
    """Return what to do next for a job.

    Level-triggered: the same snapshot gives the same plan, whatever happened before it was taken. The order of the
    questions is the order of precedence: deletion, the end, the spec, the attempt's outcome, the deadline, holding
    back, the next attempt, running.
    """
    draft = Draft(snapshot)
    if snapshot.job.deleting:
        return Plan(
            status=snapshot.job.status, reasons=("the job is deleted: garbage collection removes what it owns",)
        )
    spec = snapshot.job.spec
    if finished(draft):
        _count(draft, spec)
        clean_up(draft)
    elif spec is None:
        draft.set("Accepted", False, "InvalidSpec", snapshot.job.spec_error or "The spec is not valid")
    else:
        _decide_valid(draft, spec)
    return draft.plan()


def _decide_valid(draft: Draft, spec: LLMBatchJobSpec) -> None:
    if not _admitted(draft, spec):
        return
    draft.set("Accepted", True, "Valid")
    if draft.stored.started_at is None:
        draft.update(started_at=rfc3339(draft.snapshot.now))
    _count(draft, spec)
    end = outcome(draft.snapshot)
    if end.kind == "complete":
        complete(draft, end)
    elif end.kind == "refused":
        fail(draft, end.reason, end.message)
    elif _too_late(draft, spec):
        fail(draft, "DeadlineExceeded", f"spec.activeDeadlineSeconds {spec.active_deadline_seconds} is over")
    elif (why := hold_reason(draft, spec)) is not None:
        hold_back(draft, why, end)
    else:
        _go_on(draft, spec, end)


def _go_on(draft: Draft, spec: LLMBatchJobSpec, end: Outcome) -> None:
    stored = draft.stored
    rested = draft.is_true("Suspended")
    draft.clear("Suspended", "Resumed")
    draft.update(pausing_since=None)
    if stored.attempt is None or stored.ray_cluster_name != cluster_name(draft.snapshot.job.name):
        intend(draft, stored.attempt or 1)
        expect(draft, spec)
    elif rested:
        intend(draft, stored.attempt + 1)
    elif end.kind != "ongoing":
        next_attempt(draft, spec, end)
    else:
        run(draft, spec)


def _admitted(draft: Draft, spec: LLMBatchJobSpec) -> bool:
    """Check once, before the first attempt: later a smaller capacity is a wish, not a mistake."""
    if draft.stored.attempt is not None:
        return True
    try:
        check_admission(spec)
        build_ray_cluster(draft.snapshot.job, spec, draft.snapshot.settings, "run-spec")
    except SpecError as error:
        draft.set("Accepted", False, "InvalidSpec", str(error))
        draft.because(str(error))
        return False
    return True


def _count(draft: Draft, spec: LLMBatchJobSpec | None) -> None:
    """Bring the numbers up to date."""
    snapshot, stored = draft.snapshot, draft.stored
    found = workers(snapshot)
    progress = present_progress(snapshot)
    if progress is not None and not finished(draft):
        draft.update(progress=merged_rows(stored.progress, progress.rows), stages=stages_of(progress))
    if spec is None:
        return
    prices = spec.budget.prices if spec.budget else None
    draft.update(estimated_cost=accrued_cost(stored, prices, found, snapshot.now))
    if finished(draft):
        return
    capacity = stored.capacity or CapacityStatus()
    counts = {
        "workers_ready": sum(worker.ready for worker in found),
        "spot_ready": sum(worker.ready and worker.spot for worker in found),
        "gpus": ready_gpus(found, spec),
    }
    draft.update(capacity=capacity.model_copy(update=counts))
    if stored.pausing_since is not None or held_by_queue(snapshot) or leaving(snapshot):
        return
    own_doing = shrinking(snapshot) - {pod.name for pod in snapshot.vanished}
    preemptions, new = counted_preemptions(stored.preemptions, workers_to_count(snapshot), own_doing, snapshot.now)
    draft.update(preemptions=preemptions)
    if new:
        gone = ", ".join(sorted(f"{preemption.worker} ({preemption.source})" for preemption in new))
        draft.tell("Warning", "Preempted", f"On notice or gone: {gone}")


def _too_late(draft: Draft, spec: LLMBatchJobSpec) -> bool:
    limit, started = spec.active_deadline_seconds, unix(draft.field("started_at"))
    if limit is None or started is None:
        return False
    left = started + limit - draft.snapshot.now
    if left > 0:
        draft.again_in(left)
    return left <= 0
