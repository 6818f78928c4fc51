"""What a job is measured by: one list of figures, for the runtime's endpoint and for the operator's.

Both show a run by the same names. The operator adds the labels of `JOB_LABELS`, since it shows many jobs; they are
not called `namespace` and `job`, which Prometheus sets itself for what it scrapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from llmbatch.api.job import RowProgress
from llmbatch.api.progress import PoolProgress, Progress

JOB_LABELS = ("job_namespace", "job_name")


class Figure(NamedTuple):
    """One figure. Labels are bounded: stages, states, results; never rows, prompts or pods."""

    name: str
    """The metric's name; a counter's without `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    """counter (never goes down while what it counts lives), gauge or histogram."""
    help: str
    """One sentence."""
    labels: tuple[str, ...] = ()
    """Names of its labels, besides those of the job."""

    @property
    def series(self) -> str:
        """The name that a query uses."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


ROWS = Figure("llmbatch_rows", "counter", "Rows committed, earlier attempts included.", ("result",))
INPUT_ROWS = Figure("llmbatch_input_rows", "gauge", "Rows of the input; absent until known.")
REMAINING = Figure("llmbatch_remaining_seconds", "gauge", "Time left at the present rate; absent until known.")
TOKENS = Figure("llmbatch_tokens", "counter", "Tokens of committed rows.", ("kind",))
SHARDS = Figure("llmbatch_shards_committed", "counter", "Shards in the ledger.")
REPEATED = Figure(
    "llmbatch_rows_repeated", "counter", "Rows whose shard another attempt had committed first, in this attempt."
)
RAY_GPUS = Figure("llmbatch_ray_gpus", "gauge", "GPUs in the Ray cluster; absent with policy stock.")
USEFUL_GPUS = Figure("llmbatch_useful_gpus", "gauge", "GPUs the job could use now.")
DRAINS = Figure(
    "llmbatch_drains",
    "counter",
    "Workers on notice that went, in this attempt: clean (empty before the deadline), late (empty after it) or missed "
    "(with work on it).",
    ("outcome",),
)
STAGE_REPLICAS = Figure("llmbatch_stage_replicas", "gauge", "Replicas of a stage.", ("stage", "state"))
STAGE_TARGET = Figure("llmbatch_stage_target_replicas", "gauge", "Replicas the allocation wants.", ("stage",))
STAGE_QUEUED = Figure("llmbatch_stage_queued_rows", "gauge", "Rows waiting for a stage.", ("stage",))
STAGE_IN_FLIGHT = Figure("llmbatch_stage_in_flight_rows", "gauge", "Rows inside a stage's replicas.", ("stage",))
STAGE_ROWS = Figure("llmbatch_stage_rows", "counter", "Rows a stage finished in this attempt.", ("stage",))
STAGE_TOKENS = Figure("llmbatch_stage_tokens_per_second", "gauge", "Tokens a second of a stage.", ("stage",))
STAGE_SERVICE = Figure(
    "llmbatch_stage_service_seconds_per_row",
    "gauge",
    "Measured replica-seconds a row, times GPUs a replica.",
    ("stage",),
)
STAGE_LOAD = Figure(
    "llmbatch_stage_load_seconds", "gauge", "Measured mean time until a new replica is ready.", ("stage",)
)
RUN_FIGURES = (
    ROWS,
    INPUT_ROWS,
    REMAINING,
    TOKENS,
    SHARDS,
    REPEATED,
    RAY_GPUS,
    USEFUL_GPUS,
    DRAINS,
    STAGE_REPLICAS,
    STAGE_TARGET,
    STAGE_QUEUED,
    STAGE_IN_FLIGHT,
    STAGE_ROWS,
    STAGE_TOKENS,
    STAGE_SERVICE,
    STAGE_LOAD,
)
"""What a run gives."""

REPLICA_STATES = ("ready", "pending", "restarting", "retiring")


class Sheet:
    """Gathers readings into one family a figure, as the exposition format wants them."""

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        """Expect the values of `labels` with every reading."""
        self._labels = labels
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, owner: tuple[str, ...], figure: Figure, value: float | None, *labels: str) -> None:
        """Take a reading; None stands for one that is not known, and is left out.

        Args:
            owner: Values of the sheet's labels.
            figure: What is read.
            value: The reading.
            labels: Values of the figure's labels.
        """
        if value is None:
            return
        family = self._families.get(figure.name)
        if family is None:
            made = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            family = made(figure.name, figure.help, labels=(*self._labels, *figure.labels))
            self._families[figure.name] = family
        family.add_metric((*owner, *labels), value)

    def metrics(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._families.values()


def read_rows(sheet: Sheet, owner: tuple[str, ...], rows: RowProgress) -> None:
    """Read what a job has committed."""
    sheet.add(owner, ROWS, rows.rows_completed - rows.rows_failed, "succeeded")
    sheet.add(owner, ROWS, rows.rows_failed, "failed")
    sheet.add(owner, INPUT_ROWS, rows.rows_total)
    sheet.add(owner, REMAINING, rows.estimated_remaining_seconds)
    sheet.add(owner, TOKENS, rows.prompt_tokens, "prompt")
    sheet.add(owner, TOKENS, rows.completion_tokens, "completion")


def read_run(sheet: Sheet, owner: tuple[str, ...], progress: Progress) -> None:
    """Read how a run stands, its rows excepted."""
    sheet.add(owner, SHARDS, progress.shards_committed)
    sheet.add(owner, REPEATED, progress.rows_repeated)
    sheet.add(owner, RAY_GPUS, None if progress.allocation_policy == "stock" else progress.gpus)
    sheet.add(owner, USEFUL_GPUS, progress.useful_gpus)
    for outcome, count in (
        ("clean", progress.drains.clean),
        ("late", progress.drains.late),
        ("missed", progress.drains.missed),
    ):
        sheet.add(owner, DRAINS, count, outcome)
    for pool in progress.pools:
        _read_stage(sheet, owner, pool)


def _read_stage(sheet: Sheet, owner: tuple[str, ...], pool: PoolProgress) -> None:
    for state in REPLICA_STATES:
        sheet.add(owner, STAGE_REPLICAS, getattr(pool, state), pool.name, state)
    for figure, value in (
        (STAGE_TARGET, pool.target),
        (STAGE_QUEUED, pool.queued_rows),
        (STAGE_IN_FLIGHT, pool.in_flight_rows),
        (STAGE_ROWS, pool.rows_completed),
        (STAGE_TOKENS, pool.tokens_per_second),
        (STAGE_SERVICE, pool.service_seconds_per_row),
        (STAGE_LOAD, pool.load_seconds),
    ):
        sheet.add(owner, figure, value, pool.name)
