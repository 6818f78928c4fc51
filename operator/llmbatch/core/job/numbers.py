"""The status' numbers: progress, stages, workers, preemptions, cost. Counters never go down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmbatch.api.job import (
    MAX_COUNTED,
    LLMBatchJobSpec,
    LLMBatchJobStatus,
    Preemption,
    Preemptions,
    Prices,
    RowProgress,
    StageStatus,
)
from llmbatch.api.progress import Progress
from llmbatch.core.job.facts import Worker
from llmbatch.core.job.times import rfc3339, unix

RECENT = 10
SECONDS_AN_HOUR = 3600.0
COST_DIGITS = 6
"""Digits of a cost after the point: half a minute of a worker for a cent an hour is 0.00008."""


def merged_rows(stored: RowProgress | None, now: RowProgress) -> RowProgress:
    """Return the rows to show: a new attempt counts from zero until it has read the ledger, the job does not."""
    if stored is None:
        return now
    return now.model_copy(
        update={
            "percentage": _most(stored.percentage, now.percentage),
            "rows_total": stored.rows_total if now.rows_total is None else now.rows_total,
            "rows_completed": max(stored.rows_completed, now.rows_completed),
            "rows_failed": max(stored.rows_failed, now.rows_failed),
            "prompt_tokens": max(stored.prompt_tokens, now.prompt_tokens),
            "completion_tokens": max(stored.completion_tokens, now.completion_tokens),
        }
    )


def stages_of(progress: Progress) -> tuple[StageStatus, ...]:
    """Return the actor pools as the status shows them."""
    return tuple(
        StageStatus(
            name=pool.name,
            target=pool.target,
            ready=pool.ready,
            queued_rows=pool.queued_rows,
            rows_per_second=round(pool.rows_per_second, 3),
        )
        for pool in progress.pools
    )


def resting(stages: Sequence[StageStatus]) -> tuple[StageStatus, ...]:
    """Return the actor pools while no driver runs."""
    return tuple(StageStatus(name=stage.name) for stage in stages)


def counted_preemptions(
    stored: Preemptions | None, workers: Sequence[Worker], own_doing: frozenset[str], now: float
) -> tuple[Preemptions | None, tuple[Preemption, ...]]:
    """Count the workers that are newly on notice or lost, each once, as a preemption or as a failure of its own.

    Args:
        stored: What the status says.
        workers: The worker pods there are.
        own_doing: Workers that the operator itself told to go.
        now: Unix seconds.

    Returns:
        The counters, None while no worker ever went, and the preemptions that are new.
    """
    before = stored or Preemptions()
    there = {worker.pod.name for worker in workers}
    counted = {name: since for name, since in before.counted.items() if name in there}
    fresh = [worker for worker in workers if worker.doomed and worker.pod.name not in counted.keys() | own_doing]
    # What finds no place among those to remember is counted once there is one.
    fresh = fresh[: MAX_COUNTED - len(counted)]
    if stored is None and not fresh:
        return None, ()
    new = tuple(_preemption(worker, now) for worker in fresh if not _failed(worker))
    return (
        Preemptions(
            total=before.total + len(new),
            failures=before.failures + len(fresh) - len(new),
            recent=(*before.recent, *new)[-RECENT:],
            counted=dict(sorted((counted | {worker.pod.name: rfc3339(now) for worker in fresh}).items())),
        ),
        new,
    )


def accrued_cost(
    status: LLMBatchJobStatus, prices: Prices | None, workers: Sequence[Worker], now: float
) -> float | None:
    """Return the cost so far, in the currency of the prices: worker hours since the status was last brought up to date.

    A worker costs from its creation on, once it has a node. Whole seconds count, since the status knows no others: what
    is left of a second counts the next time, and once. One that came and went between two updates of the status
    is missed; a preemption or a resize brings about an update.
    """
    if prices is None:
        return status.estimated_cost
    last, now = unix(status.updated_at), math.floor(now)
    cost = status.estimated_cost or 0.0
    for worker in workers:
        if worker.pod.node is None:
            continue
        start = worker.pod.created_at if last is None else max(last, worker.pod.created_at)
        price = prices.spot if worker.spot else prices.on_demand
        cost += price * max(0.0, now - start) / SECONDS_AN_HOUR
    return round(cost, COST_DIGITS)


def ready_gpus(workers: Sequence[Worker], spec: LLMBatchJobSpec) -> int:
    """Return the GPUs of the ready workers."""
    return spec.worker_gpus() * sum(worker.ready for worker in workers)


def _failed(worker: Worker) -> bool:
    return worker.notice is not None and worker.notice.loss == "failure"


def _preemption(worker: Worker, now: float) -> Preemption:
    notice = worker.notice
    deadline = None if notice is None or notice.deadline is None else rfc3339(notice.deadline)
    seen = now if notice is None or notice.observed_at is None else notice.observed_at
    source = "pod deleted" if notice is None else notice.source
    return Preemption(
        worker=worker.pod.name,
        source=source,
        observed_at=rfc3339(seen),
        deadline=deadline,
        spot=worker.spot,
        age_seconds=max(0, int(now - worker.pod.created_at)),
    )


def _most(first: float | None, second: float | None) -> float | None:
    return max((value for value in (first, second) if value is not None), default=None)
