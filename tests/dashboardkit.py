"""A job that is decided on for real, in the cluster of `jobworld`, behind the operator's own metrics."""

from __future__ import annotations

from controllerkit import spec
from jobworld import Driver, World
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.controller import health
from llmbatch.controller.metrics import JobFigures, Metrics, Recovery


class Reporting(World):
    """A world whose driver reports a stage, as the runtime does."""

    def _progress(self, driver: Driver) -> Progress:
        progress = super()._progress(driver)
        done = progress.rows.rows_completed
        pool = PoolProgress(
            name="say", target=4, ready=3, pending=1, queued_rows=50, in_flight_rows=32, rows_completed=done,
            tokens_per_second=90.0, service_seconds_per_row=1.0, load_seconds=30.0,
        )  # fmt: skip
        rows = RowProgress(
            rows_total=self.rows, rows_completed=done, prompt_tokens=20 * done, completion_tokens=9 * done,
            estimated_remaining_seconds=60,
        )  # fmt: skip
        return progress.model_copy(update={"pools": (pool,), "rows": rows, "gpus": 4})


class Operator:
    """Passes over the job of a world, with the operator's own metrics."""

    def __init__(self, world: World) -> None:
        self._world, self._recovery = world, Recovery()
        self._figures: list[JobFigures] = []
        self.metrics = Metrics(lambda: {"Running": 1}, lambda: self._figures, lambda: world.writes)

        self.app = health.application(lambda: 0.0, lambda: True, self.metrics)
        """The operator's port."""

    def preempt(self) -> None:
        """Put two workers on notice."""
        self._world.notice_spot(2)
        self.metrics.notice_to_runtime.observe(0.2)

    def step(self) -> None:
        """Make a pass."""
        world, metrics = self._world, self.metrics
        seen, before = world.observe(), world.status
        with metrics.passes.time():
            plan = world.step()
        for action in plan.actions:
            metrics.actions.labels(action.action).inc()
        metrics.status_writes.inc(world.status_writes - metrics.status_writes._value.get())
        self._figures[:] = [figures := JobFigures.of(seen, plan.status)]
        preempted = metrics.count_preemptions(before, plan.status, seen)
        took = self._recovery.update(world.now, figures, preempted=preempted)
        if took is not None:
            metrics.recovery.observe(took)


def budgeted(rows: int) -> Reporting:
    """Return a world with one job that has a budget."""
    return Reporting(spec=spec(budget={"maxCost": 40, "prices": {"spot": 1, "onDemand": 3}}), rows=rows)
