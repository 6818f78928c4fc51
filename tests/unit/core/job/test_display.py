"""The columns of `kubectl get lbj`."""

import pytest

from llmbatch.api.job import CapacityStatus, LLMBatchJobStatus, RowProgress
from llmbatch.core.job.display import display_of, duration

ROWS = RowProgress(percentage=42.9, rows_total=5000, rows_completed=2145, estimated_remaining_seconds=4830)
CAPACITY = CapacityStatus(workers_ready=5, workers_wanted=6, spot_ready=4)


def test_a_running_job_shows_how_far_on_what_and_how_long():
    shown = display_of(LLMBatchJobStatus(progress=ROWS, capacity=CAPACITY))
    assert shown is not None
    assert shown.to_wire() == {
        "progress": "42%",
        "rows": "2145/5000",
        "workers": "5/6",
        "spot": "80%",
        "eta": "1h20m",
    }


def test_what_is_not_known_is_left_open():
    assert display_of(LLMBatchJobStatus()) is None
    shown = display_of(LLMBatchJobStatus(progress=RowProgress(rows_completed=7), capacity=CapacityStatus()))
    assert shown is not None
    assert (shown.progress, shown.rows, shown.workers, shown.spot, shown.eta) == ("", "7/?", "0/0", "", "")


def test_a_job_that_ended_has_no_workers_and_nothing_left():
    ended = LLMBatchJobStatus(progress=ROWS, capacity=CAPACITY, finished_at="2027-01-15T08:00:00Z")
    shown = display_of(ended)
    assert shown is not None
    assert (shown.rows, shown.workers, shown.spot, shown.eta) == ("2145/5000", "", "", "")


def test_no_job_is_through_before_its_last_row():
    nearly = display_of(LLMBatchJobStatus(progress=RowProgress(percentage=99.99, rows_total=9, rows_completed=8)))
    assert nearly is not None
    assert nearly.progress == "99%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45, "45s"), (60, "1m"), (750, "12m30s"), (3600, "1h"), (12_000, "3h20m"), (187_200, "2d4h")],
)
def test_durations_have_two_units_at_most(seconds: int, text: str):
    assert duration(seconds) == text
