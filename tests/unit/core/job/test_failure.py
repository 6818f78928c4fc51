from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.job.failure import ENOUGH_ROWS, error_rate_exceeded


def test_a_known_total_fails_the_job_as_soon_as_the_allowed_number_is_passed() -> None:
    assert not error_rate_exceeded(10, 50, 1000, 0.01, finished=False)
    assert error_rate_exceeded(11, 50, 1000, 0.01, finished=False)


def test_an_unknown_total_waits_for_enough_rows() -> None:
    assert not error_rate_exceeded(ENOUGH_ROWS - 1, ENOUGH_ROWS - 1, None, 0.01, finished=False)
    assert error_rate_exceeded(11, ENOUGH_ROWS, None, 0.01, finished=False)


def test_a_finished_job_is_judged_by_its_own_rows() -> None:
    assert error_rate_exceeded(1, 60, None, 0.01, finished=True)
    assert not error_rate_exceeded(0, 0, None, 0.0, finished=True)


@given(failed=st.integers(0, 10**6), more=st.integers(0, 10**6), rate=st.floats(0, 1))
def test_a_job_refused_early_would_be_refused_at_its_end(failed: int, more: int, rate: float) -> None:
    total = failed + more
    if error_rate_exceeded(failed, failed, total, rate, finished=False):
        assert error_rate_exceeded(failed, total, total, rate, finished=True)
