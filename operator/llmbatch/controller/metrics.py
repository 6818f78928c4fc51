"""The operator's figures, for Prometheus: its own, and those of every job it serves. A job's go when the job goes.

The labels of a job are bounded by the jobs there are; no other label names a row, a pod or a node.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from llmbatch import __version__
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.api.progress import Progress
from llmbatch.core.figures import JOB_LABELS, RUN_FIGURES, Figure, Sheet, read_rows, read_run
from llmbatch.core.job.facts import Worker, driver_lives, present_progress, workers, workers_to_count
from llmbatch.core.job.numbers import merged_rows
from llmbatch.core.job.phase import Phase
from llmbatch.core.job.snapshot import Snapshot

PASS_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELIVERY_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
NOTICE_SECONDS = (0, 5, 15, 25, 30, 60, 90, 120, 300, 600)
RECOVERY_SECONDS = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
COMMON_ERRORS = ("ApiServerError", "ForbiddenError", "HeadError")
"""Shown from the start, as 0: Prometheus sees no increase from an absent series to its first value."""

CONDITION = Figure(
    "llmbatch_job_condition", "gauge", "1 for each condition that is true, with its reason.", ("condition", "reason")
)
ATTEMPTS_ENDED = Figure("llmbatch_attempts_ended", "counter", "Attempts that failed or were interrupted.", ("result",))
WORKERS = Figure("llmbatch_workers", "gauge", "Worker pods.", ("market", "state"))
WORKERS_WANTED = Figure("llmbatch_workers_wanted", "gauge", "Worker pods the controller asks for.")
FALLBACK_WORKERS = Figure("llmbatch_fallback_workers", "gauge", "On-demand workers that stand in for spot ones.")
WORKERS_LOST = Figure(
    "llmbatch_workers_lost",
    "counter",
    "Workers on notice or taken away (preemption), and worker pods that failed by themselves (failure).",
    ("cause",),
)
CAPACITY_GPUS = Figure("llmbatch_capacity_gpus", "gauge", "GPUs of the workers that take work.", ("market",))
COST = Figure("llmbatch_cost", "counter", "Cost so far, in the currency of budget.prices; absent without prices.")
MAX_COST = Figure("llmbatch_budget_max_cost", "gauge", "budget.maxCost; absent without a budget.")
JOB_FIGURES = (
    CONDITION,
    ATTEMPTS_ENDED,
    WORKERS,
    WORKERS_WANTED,
    FALLBACK_WORKERS,
    WORKERS_LOST,
    CAPACITY_GPUS,
    COST,
    MAX_COST,
    *RUN_FIGURES,
)
"""What a job gives, beside what its run gives."""
BUILD = Figure("llmbatch_build_info", "gauge", "The operator's version.", ("version",))
JOBS = Figure("llmbatch_jobs", "gauge", "Jobs, by phase.", ("phase",))
API_WRITES = Figure("llmbatch_api_writes", "counter", "Requests that could change an object.")
PASSES = Figure("llmbatch_pass_seconds", "histogram", "A pass over a job.")
PASS_ERRORS = Figure("llmbatch_pass_errors", "counter", "Errors that ended a pass or an action, by class.", ("error",))
ACTIONS = Figure("llmbatch_actions", "counter", "Actions carried out, by kind.", ("action",))
STATUS_WRITES = Figure("llmbatch_status_writes", "counter", "Statuses written.")
PREEMPTIONS = Figure(
    "llmbatch_preemptions",
    "counter",
    "Workers put on notice or taken away, by the signal that said so first.",
    ("source", "market"),
)
NOTICE = Figure(
    "llmbatch_preemption_notice_seconds",
    "histogram",
    "From the first sight of a preemption to its deadline, where one is known.",
)
RECOVERY = Figure(
    "llmbatch_recovery_seconds", "histogram", "From a preemption until as many workers take work as are wanted."
)
NOTICE_TO_RUNTIME = Figure(
    "llmbatch_notice_to_runtime_seconds",
    "histogram",
    "From the event of a node or pod that dooms a worker until the runtime took the Capacity that names it.",
)
OPERATOR_FIGURES = (
    BUILD,
    JOBS,
    PREEMPTIONS,
    NOTICE,
    RECOVERY,
    NOTICE_TO_RUNTIME,
    PASSES,
    PASS_ERRORS,
    ACTIONS,
    API_WRITES,
    STATUS_WRITES,
)
"""What the operator gives of itself."""
MARKETS = ("spot", "on-demand")
WORKER_STATES = ("ready", "starting", "leaving")


@dataclass(frozen=True, slots=True)
class JobFigures:
    """What the last pass over a job saw."""

    owner: tuple[str, str]
    """Namespace and name."""
    status: LLMBatchJobStatus
    """The status, with the rows as they are now."""
    progress: Progress | None
    """The run's Progress, while a driver runs."""
    workers: Mapping[tuple[str, str], int]
    """Worker pods by market and state."""
    gpus_per_worker: int
    """GPUs of one worker."""
    max_cost: float | None
    """The budget."""

    @classmethod
    def of(cls, snapshot: Snapshot, status: LLMBatchJobStatus) -> JobFigures:
        """Take what is shown of a snapshot and of the status that follows from it."""
        job, progress = snapshot.job, present_progress(snapshot)
        if progress is not None:
            # The stored status lags by minutes.
            status = status.model_copy(update={"progress": merged_rows(status.progress, progress.rows)})
        return cls(
            owner=(job.namespace, job.name),
            status=status,
            # The last word of a driver that ended is of pools that are no more.
            progress=progress if driver_lives(snapshot) else None,
            workers=Count((_market(worker), _state(worker)) for worker in workers(snapshot)),
            gpus_per_worker=0 if job.spec is None else job.spec.worker_gpus(),
            max_cost=None if job.spec is None or job.spec.budget is None else job.spec.budget.max_cost,
        )

    def read(self, sheet: Sheet) -> None:
        """Read them onto a sheet."""
        status, owner = self.status, self.owner
        for condition in status.conditions:
            if condition.status == "True":
                sheet.add(owner, CONDITION, 1, condition.type, condition.reason)
        sheet.add(owner, ATTEMPTS_ENDED, status.failures, "failed")
        sheet.add(owner, ATTEMPTS_ENDED, status.interruptions, "interrupted")
        for market in MARKETS:
            for state in WORKER_STATES:
                sheet.add(owner, WORKERS, self.workers.get((market, state), 0), market, state)
            sheet.add(owner, CAPACITY_GPUS, self.gpus_per_worker * self.workers.get((market, "ready"), 0), market)
        if status.capacity is not None:
            sheet.add(owner, WORKERS_WANTED, status.capacity.workers_wanted)
            sheet.add(owner, FALLBACK_WORKERS, status.capacity.fallback_workers)
        lost = status.preemptions
        sheet.add(owner, WORKERS_LOST, lost.total if lost else 0, "preemption")
        sheet.add(owner, WORKERS_LOST, lost.failures if lost else 0, "failure")
        sheet.add(owner, COST, status.estimated_cost)
        sheet.add(owner, MAX_COST, self.max_cost)
        if status.progress is not None:
            read_rows(sheet, owner, status.progress)
        if self.progress is not None:
            read_run(sheet, owner, self.progress)


class Recovery:
    """Times how long a running job is short of workers after a preemption."""

    def __init__(self) -> None:
        self._since: float | None = None

    def update(self, now: float, figures: JobFigures, *, preempted: bool) -> float | None:
        """Return the seconds from the first preemption until enough workers took work, once that is so.

        A job that ends or rests before never recovers, and is not timed.

        Args:
            now: Seconds, of any clock that only goes forward.
            figures: How the job stands.
            preempted: Whether a worker was newly counted as preempted.
        """
        if not any(item.type == "Running" and item.status == "True" for item in figures.status.conditions):
            self._since = None
            return None
        capacity = figures.status.capacity
        ready = sum(count for (_, state), count in figures.workers.items() if state == "ready")
        enough = capacity is None or ready >= capacity.workers_wanted
        if self._since is None:
            self._since = now if preempted and not enough else None
            return None
        if not enough:
            return None
        took, self._since = now - self._since, None
        return took


class Metrics(Collector):
    """Counters and histograms of one operator process, and the figures of its jobs."""

    def __init__(
        self,
        phases: Callable[[], Mapping[str, int]],
        jobs: Callable[[], Iterable[JobFigures]],
        writes: Callable[[], int],
    ) -> None:
        self._phases, self._jobs, self._writes = phases, jobs, writes
        # A second series beside each counter and histogram, of no use to any query here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        self.passes = _histogram(PASSES, PASS_SECONDS, registry)
        self.errors = _counter(PASS_ERRORS, registry)
        for error in COMMON_ERRORS:
            self.errors.labels(error)
        self.actions = _counter(ACTIONS, registry)
        self.status_writes = _counter(STATUS_WRITES, registry)
        self.preemptions = _counter(PREEMPTIONS, registry)
        self.notice = _histogram(NOTICE, NOTICE_SECONDS, registry)
        self.recovery = _histogram(RECOVERY, RECOVERY_SECONDS, registry)
        self.notice_to_runtime = _histogram(NOTICE_TO_RUNTIME, DELIVERY_SECONDS, registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what is read at each scrape: all that is no counter or histogram of this process."""
        own = Sheet()
        own.add((), BUILD, 1, __version__)
        counts = self._phases()
        for phase in get_args(Phase):
            own.add((), JOBS, counts.get(phase, 0), phase)
        own.add((), API_WRITES, self._writes())
        yield from own.metrics()
        sheet = Sheet(JOB_LABELS)
        for job in self._jobs():
            job.read(sheet)
        yield from sheet.metrics()

    def count_preemptions(self, before: LLMBatchJobStatus, after: LLMBatchJobStatus, snapshot: Snapshot) -> bool:
        """Count the workers that the status before did not count and the one after does; tell whether there are any."""
        new = _counted(after) - _counted(before)
        gone = [worker for worker in workers_to_count(snapshot) if worker.pod.name in new and not _failed(worker)]
        for worker in gone:
            notice = worker.notice
            # What stands behind the colon is the object's own word, and not bounded.
            source = "pod deleted" if notice is None else notice.source.partition(":")[0]
            self.preemptions.labels(source, _market(worker)).inc()
            if notice is not None and notice.deadline is not None:
                self.notice.observe(max(0.0, notice.deadline - snapshot.now))
        return bool(gone)


def _counter(figure: Figure, registry: CollectorRegistry) -> Counter:
    return Counter(figure.name, figure.help, figure.labels, registry=registry)


def _histogram(figure: Figure, buckets: Sequence[float], registry: CollectorRegistry) -> Histogram:
    return Histogram(figure.name, figure.help, figure.labels, buckets=buckets, registry=registry)


def _market(worker: Worker) -> str:
    return worker.pod.group


def _state(worker: Worker) -> str:
    if worker.doomed:
        return "leaving"
    return "ready" if worker.pod.ready else "starting"


def _failed(worker: Worker) -> bool:
    return worker.notice is not None and worker.notice.loss == "failure"


def _counted(status: LLMBatchJobStatus) -> set[str]:
    return set() if status.preemptions is None else set(status.preemptions.counted)
