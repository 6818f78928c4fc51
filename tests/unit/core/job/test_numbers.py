"""The numbers of the status."""

from __future__ import annotations

import pytest

from controllerkit import NOW, SETTINGS, job, running_snapshot
from llmbatch.api.job import LLMBatchJobStatus, Prices
from llmbatch.core.job.decide import decide
from llmbatch.core.job.facts import workers
from llmbatch.core.job.numbers import accrued_cost
from llmbatch.core.job.snapshot import NodeObservation, Notice
from llmbatch.core.job.times import rfc3339


def test_a_worker_whose_machine_is_gone_does_not_count_though_its_pod_says_ready():
    gone = NodeObservation(name="node-of-w0", exists=False, ready=False, notice=Notice(kind="lost", source="test"))
    capacity = decide(running_snapshot(nodes=(gone,))).status.capacity
    assert capacity is not None
    assert (capacity.workers_ready, capacity.spot_ready, capacity.gpus) == (3, 3, 3)


def test_a_worker_on_notice_counts_until_it_goes():
    noticed = NodeObservation(name="node-of-w0", notice=Notice(kind="reclaim", source="test", deadline=NOW + 60))
    capacity = decide(running_snapshot(nodes=(noticed,))).status.capacity
    assert capacity is not None
    assert capacity.workers_ready == 4


def test_worker_counts_lag_no_longer_than_progress_may():
    settled = decide(running_snapshot()).status
    assert settled.capacity is not None
    behind = settled.capacity.model_copy(update={"workers_ready": 3})

    def shown(age: float, status_seconds: float) -> int:
        stored = settled.model_copy(update={"capacity": behind, "updated_at": rfc3339(NOW - age)})
        settings = SETTINGS.model_copy(update={"status_seconds": status_seconds})
        capacity = decide(running_snapshot(job=job(status=stored), settings=settings)).status.capacity
        assert capacity is not None
        return capacity.workers_ready

    assert [shown(5, 300), shown(5, 2), shown(16, 300)] == [3, 4, 4]


def test_numbers_follow_soon_in_a_young_job_and_cost_few_writes_in_an_old_one():
    settled = decide(running_snapshot()).status

    def is_written(ran: float, last: float, status_seconds: float = 300) -> bool:
        behind = settled.model_copy(
            update={
                "progress": settled.progress.model_copy(update={"rows_completed": 1}),
                "started_at": rfc3339(NOW - ran),
                "updated_at": rfc3339(NOW - last),
            }
        )
        settings = SETTINGS.model_copy(update={"status_seconds": status_seconds})
        return decide(running_snapshot(job=job(status=behind), settings=settings)).status != behind

    assert [is_written(40, 20), is_written(40, 30)] == [False, True]
    assert [is_written(300, 99), is_written(300, 100)] == [False, True]
    assert [is_written(90_000, 299), is_written(90_000, 300)] == [False, True]
    assert is_written(300, 10, status_seconds=10)


def test_an_hour_costs_its_price_however_often_it_is_written_down():
    prices = Prices(spot=0.01, on_demand=0.03)
    [worker] = [worker for worker in workers(running_snapshot()) if worker.pod.name == "w0"]
    stored = LLMBatchJobStatus(updated_at=rfc3339(NOW), estimated_cost=0.0)
    for write in range(1, 121):
        now = NOW + 30 * write + 0.9 * (write % 2)
        cost = accrued_cost(stored, prices, [worker], now)
        stored = LLMBatchJobStatus(updated_at=rfc3339(now), estimated_cost=cost)
    assert stored.estimated_cost == pytest.approx(0.01, rel=0.01)
