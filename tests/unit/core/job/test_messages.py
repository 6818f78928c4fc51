"""What others say goes into the status, however long it is."""

from controllerkit import job, progress, ray_job, running_snapshot, running_status
from llmbatch.core.job.decide import decide
from llmbatch.core.job.snapshot import RayApiObservation, RuntimeObservation

LONG = "x" * 2_000_000
"""More than the API server stores in one object."""


def test_an_error_without_end_still_ends_the_job():
    failed = progress(state="failed", error=f"InputError: {LONG}")
    status = decide(running_snapshot(runtime=RuntimeObservation(progress=failed))).status
    assert status.phase == "Failed"
    assert len(status.model_dump_json()) < 100_000


def test_nor_does_a_long_error_keep_the_next_attempt_from_being_written():
    ended = ray_job("FAILED", message=LONG, exit_code=3)
    plan = decide(
        running_snapshot(job=job(status=running_status()), ray=RayApiObservation(reachable=True, jobs=(ended,)))
    )
    assert plan.status.attempt == 2
    assert len(plan.status.model_dump_json()) < 100_000
