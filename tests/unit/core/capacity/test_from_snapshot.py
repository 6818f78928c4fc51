"""What the policy is told of a job, and what the Plan makes of its answer."""

from __future__ import annotations

from typing import Any

from controllerkit import NOW, SPOT, job, pod, progress, running_snapshot, running_status, spec
from llmbatch.api.job import CapacityStatus, Preemption, Preemptions, RowProgress
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import PatchWorkerGroup, Plan, SendCapacity
from llmbatch.core.job.sizing import WARM_UP_SECONDS
from llmbatch.core.job.snapshot import PodObservation, RuntimeObservation, Snapshot
from llmbatch.core.job.times import rfc3339

CAPACITY = {"spot": {"max": 4, "tolerations": [SPOT]}, "onDemand": {"max": 4}, "fallback": {"afterSeconds": 300}}
WAITING = {"ready": False, "phase": "Pending", "node": None, "unschedulable": "0/9 nodes are available: 9 x"}


def snapshot(
    pods: list[PodObservation], *, left: int | None = None, stored: dict[str, Any] | None = None, **fields: Any
):
    """Return a job that has run for ten minutes, with so many seconds left at its present rate."""
    rows = RowProgress(rows_total=100, rows_completed=40, estimated_remaining_seconds=left)
    known = {"attempt_started_at": rfc3339(NOW - 600), **(stored or {})}
    return running_snapshot(
        job=job(spec=spec(capacity=CAPACITY, **fields), status=running_status(**known)),
        pods=(pod("head", "head"), *pods),
        runtime=RuntimeObservation(progress=progress(rows=rows)),
    )


def sizes(plan: Plan) -> dict[str, int]:
    """Return the sizes that change; the cluster has 4 spot workers and none on demand."""
    return {action.group: action.replicas for action in plan.actions if isinstance(action, PatchWorkerGroup)}


def after(seen: Snapshot, plan: Plan) -> Plan:
    """Return the Plan of the pass that follows, with the status as it was written."""
    return decide(seen.model_copy(update={"job": seen.job.model_copy(update={"status": plan.status})}))


def test_what_stands_in_is_written_first_and_then_asked_for():
    old = [pod(f"w{index}", **WAITING) for index in range(2)]
    seen = snapshot([*old, pod("w2"), pod("w3")])
    first = decide(seen)
    assert sizes(first) == {}
    assert first.status.capacity is not None
    assert (first.status.capacity.fallback_workers, first.status.capacity.fallback_since) == (2, rfc3339(NOW))
    assert [event.reason for event in first.events if event.reason.startswith("Fell")] == ["FellBackToOnDemand"]
    then = after(seen, first)
    assert sizes(then) == {"spot": 2, "on-demand": 2}
    [spot] = [action for action in then.actions if isinstance(action, PatchWorkerGroup) and action.group == "spot"]
    assert spot.workers_to_delete == ("w0", "w1")
    assert then.status == first.status
    [sent] = [action.capacity for action in then.actions if isinstance(action, SendCapacity)]
    assert sent.gpus_arriving == 2


def test_a_deadline_at_risk_adds_workers():
    fleet = [pod(f"w{index}") for index in range(4)]
    late = decide(snapshot(fleet, left=3000, activeDeadlineSeconds=600 + 2500))
    assert sizes(late) == {"on-demand": 2}
    calm = decide(snapshot(fleet, left=3000, activeDeadlineSeconds=600 + 9000))
    assert sizes(calm) == {}


def test_an_attempt_that_has_just_begun_has_no_rate():
    fleet = [pod(f"w{index}") for index in range(4)]
    young = {"attempt_started_at": rfc3339(NOW - WARM_UP_SECONDS + 5)}
    assert sizes(decide(snapshot(fleet, left=3000, stored=young, activeDeadlineSeconds=600 + 2500))) == {}


def test_the_budget_bounds_what_stands_in():
    fleet = [*(pod(f"w{index}", **WAITING) for index in range(2)), pod("w2"), pod("w3")]
    # 2 workers need an hour more: 2 worker-hours, 2 on spot and 8 on demand.
    for max_cost, expected in ((3.0, 0), (5.0, 2), (9.0, 2)):
        budget = {"maxCost": max_cost, "prices": {"spot": 1.0, "onDemand": 4.0}}
        plan = decide(
            snapshot(fleet, left=3600, stored={"estimated_cost": 0.0, "updated_at": rfc3339(NOW)}, budget=budget)
        )
        assert plan.status.capacity is not None or expected == 0
        assert (plan.status.capacity or CapacityStatus()).fallback_workers == expected, max_cost


def test_spot_workers_that_were_lost_young_are_churn_and_on_demand_ones_are_not():
    fleet = [pod("w0"), pod("w1"), pod("w2"), pod("w3", ready=False, created_at=NOW - 20)]

    def lost(*, spot: bool) -> dict[str, Any]:
        recent = tuple(
            Preemption(worker=f"x{ago}", source="t", observed_at=rfc3339(NOW - ago), spot=spot, age_seconds=80)
            for ago in (200, 110, 20)
        )
        return {"preemptions": Preemptions(total=3, recent=recent)}

    def fell_back(plan: Plan) -> int:
        return plan.status.capacity.fallback_workers if plan.status.capacity else 0

    assert fell_back(decide(snapshot(fleet, stored=lost(spot=True)))) == 1
    assert fell_back(decide(snapshot(fleet, stored=lost(spot=False)))) == 0
