from llmbatch.core.stages.bundle import MOST_BYTES, MOST_ROWS, task_rows


def test_a_task_of_fast_rows_is_half_a_second_of_them() -> None:
    assert task_rows(0.001, queued_rows=100_000, replicas=2, row_bytes=100) == 500


def test_slow_rows_are_not_put_together() -> None:
    assert task_rows(2.0, queued_rows=100_000, replicas=1, row_bytes=100) == 0


def test_no_replica_waits_for_rows_that_another_one_gathers() -> None:
    assert task_rows(0.001, queued_rows=300, replicas=3, row_bytes=100) == 100
    assert task_rows(0.001, queued_rows=0, replicas=3, row_bytes=0) == 0


def test_a_block_stays_small_enough_for_memory() -> None:
    assert task_rows(1e-6, queued_rows=10**6, replicas=1, row_bytes=100) == MOST_ROWS
    assert task_rows(1e-6, queued_rows=10**6, replicas=1, row_bytes=MOST_BYTES / 8) == 8
