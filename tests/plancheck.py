"""What every Plan must satisfy, whatever the snapshot: checked by the table, by random snapshots and by every story."""

from __future__ import annotations

from typing import get_args

from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.core.job.children.names import cluster_name, submission_id
from llmbatch.core.job.phase import Phase
from llmbatch.core.job.plan import CreateChild, DeleteRayCluster, PatchWorkerGroup, Plan, SendCapacity, SubmitRayJob
from llmbatch.core.job.snapshot import Snapshot


def check(snapshot: Snapshot, plan: Plan) -> None:
    """Assert everything below."""
    _deletion_is_left_to_garbage_collection(snapshot, plan)
    _the_end_is_final(snapshot, plan)
    _counters_never_go_down(snapshot.job.status, plan.status)
    _conditions_agree(plan.status)
    _a_write_names_its_generation(snapshot, plan)
    _intent_comes_first(snapshot, plan)
    _one_driver_at_a_time(snapshot, plan)
    _only_own_clusters_are_touched(snapshot, plan)
    _groups_stay_within_bounds(snapshot, plan)


def holds(status: LLMBatchJobStatus, kind: str) -> bool:
    """Tell whether a condition is true."""
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def _deletion_is_left_to_garbage_collection(snapshot: Snapshot, plan: Plan) -> None:
    if snapshot.job.deleting:
        assert not plan.actions
        assert plan.status == snapshot.job.status
    for action in plan.actions:
        if isinstance(action, CreateChild):
            [owner] = action.manifest["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == (snapshot.job.uid, True)


def _the_end_is_final(snapshot: Snapshot, plan: Plan) -> None:
    stored = snapshot.job.status
    for kind in ("Complete", "Failed"):
        if holds(stored, kind):
            assert holds(plan.status, kind), f"{kind} was taken back"
            assert plan.status.attempt == stored.attempt
            assert not any(isinstance(action, CreateChild | SubmitRayJob | SendCapacity) for action in plan.actions)
            assert all(action.replicas == 0 for action in plan.actions if isinstance(action, PatchWorkerGroup))
    assert not (holds(plan.status, "Complete") and holds(plan.status, "Failed"))


def _counters_never_go_down(before: LLMBatchJobStatus, after: LLMBatchJobStatus) -> None:
    for name in ("attempt", "failures", "interruptions", "estimated_cost"):
        assert (getattr(after, name) or 0) >= (getattr(before, name) or 0), name
    for name in ("rows_completed", "rows_failed", "prompt_tokens", "completion_tokens"):
        assert getattr(after.progress, name, 0) >= getattr(before.progress, name, 0), name
    assert (after.preemptions.total if after.preemptions else 0) >= (
        before.preemptions.total if before.preemptions else 0
    )
    assert (after.attempt or 0) - (before.attempt or 0) <= 1
    assert before.started_at is None or after.started_at == before.started_at
    assert before.finished_at is None or after.finished_at == before.finished_at


def _conditions_agree(status: LLMBatchJobStatus) -> None:
    kinds = [condition.type for condition in status.conditions]
    assert kinds == sorted(set(kinds))
    if status.phase is not None:
        assert status.phase in get_args(Phase)
    if holds(status, "Complete") or holds(status, "Failed"):
        assert status.phase in ("Complete", "Failed")
        assert status.finished_at is not None
        assert not any(holds(status, kind) for kind in ("Running", "Stalled", "Suspended", "Degraded"))
    if holds(status, "Suspended"):
        assert not holds(status, "Running")


def _a_write_names_its_generation(snapshot: Snapshot, plan: Plan) -> None:
    if plan.status == snapshot.job.status:
        assert not plan.events
    else:
        assert plan.status.observed_generation == snapshot.job.generation
        assert plan.status.updated_at is not None


def _intent_comes_first(snapshot: Snapshot, plan: Plan) -> None:
    stored = snapshot.job.status
    dependent = [action for action in plan.actions if isinstance(action, CreateChild | SubmitRayJob)]
    if dependent:
        assert stored.attempt is not None
        assert stored.ray_cluster_name == cluster_name(snapshot.job.name)
    if plan.status.attempt != stored.attempt:
        assert all(isinstance(action, DeleteRayCluster) for action in plan.actions)


def _one_driver_at_a_time(snapshot: Snapshot, plan: Plan) -> None:
    submissions = [action for action in plan.actions if isinstance(action, SubmitRayJob)]
    assert len(submissions) <= 1
    for action in submissions:
        assert snapshot.job.status.attempt is not None
        assert action.submission_id == submission_id(snapshot.job.uid, snapshot.job.status.attempt)
        assert snapshot.ray.reachable
        assert not any(job.state in ("PENDING", "RUNNING") for job in snapshot.ray.jobs)
        assert action.submission_id not in {job.submission_id for job in snapshot.ray.jobs}
        assert snapshot.cluster is not None
        assert not any(isinstance(other, DeleteRayCluster) for other in plan.actions)
    clusters = [a for a in plan.actions if isinstance(a, CreateChild) and a.manifest["kind"] == "RayCluster"]
    assert len(clusters) <= (snapshot.cluster is None)


def _only_own_clusters_are_touched(snapshot: Snapshot, plan: Plan) -> None:
    for action in plan.actions:
        if isinstance(action, DeleteRayCluster | PatchWorkerGroup):
            assert snapshot.cluster is not None
            assert snapshot.cluster.owned
            assert action.uid == snapshot.cluster.uid


def _groups_stay_within_bounds(snapshot: Snapshot, plan: Plan) -> None:
    names = {pod.name for pod in snapshot.pods if pod.group != "head"}
    for action in plan.actions:
        if isinstance(action, PatchWorkerGroup):
            assert action.replicas >= 0
            assert set(action.workers_to_delete) <= names


def check_wire(snapshot: Snapshot, plan: Plan) -> None:
    """Assert that both documents survive JSON, as `llmbatch explain` needs."""
    assert Snapshot.model_validate_json(snapshot.model_dump_json(by_alias=True)) == snapshot
    assert Plan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan
