"""The operator's clock beside the API server's, and what is said of time while no driver runs."""

import pytest

from controllerkit import NOW, PODS, cluster, job, pod, ray_job, running_snapshot, running_status, spec
from llmbatch.api.job import LLMBatchJobStatus, RowProgress, StageStatus
from llmbatch.core.job.decide import decide
from llmbatch.core.job.snapshot import RayApiObservation, RuntimeObservation, Snapshot
from llmbatch.core.job.times import rfc3339

LAST = {
    "progress": RowProgress(rows_total=100, rows_completed=40, estimated_remaining_seconds=600),
    "stages": (StageStatus(name="say", target=3, ready=3, rows_per_second=12.5),),
}


def skewed(status: LLMBatchJobStatus) -> Snapshot:
    """Return a job whose head was made half a minute from now, by the API server's clock."""
    head = pod("head", "head", created_at=NOW + 30)
    return running_snapshot(job=job(status=status), pods=(head, *PODS[1:]), cluster=cluster())


def test_a_head_that_seems_to_come_from_the_future_is_not_taken_for_another_one():
    begun = decide(skewed(running_status(attempt_started_at=None))).status
    assert begun.attempt_started_at == rfc3339(NOW + 30)
    later = decide(skewed(begun)).status
    assert (later.attempt, later.interruptions) == (1, 0)


@pytest.mark.parametrize(
    "snapshot",
    [
        running_snapshot(
            job=job(status=running_status(**LAST), spec=spec(suspend=True)),
            cluster=None,
            pods=(),
            ray=RayApiObservation(),
            runtime=RuntimeObservation(),
        ),
        running_snapshot(job=job(status=running_status(**LAST), spec=spec(activeDeadlineSeconds=1))),
        running_snapshot(
            job=job(status=running_status(**LAST)),
            ray=RayApiObservation(reachable=True, jobs=(ray_job("FAILED", exit_code=3),)),
            runtime=RuntimeObservation(),
        ),
    ],
    ids=["suspended", "failed", "between attempts"],
)
def test_nothing_is_left_of_a_driver_that_runs_no_more_but_its_rows(snapshot: Snapshot):
    after = decide(snapshot).status
    assert after.progress is not None
    assert after.progress.rows_completed == 40
    assert after.progress.estimated_remaining_seconds is None
    assert after.display is not None
    assert after.display.eta == ""
    assert not any(stage.target or stage.ready or stage.rows_per_second for stage in after.stages)
