"""Every panel's query against a real Prometheus, which scrapes the figures of a job that is really decided on.

The cluster around the decisions is the one in memory of `jobworld`; `tests/cluster/test_monitoring.py` does the same
with the real one.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from controllerkit import spec
from jobworld import Driver, World
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.controller import health
from llmbatch.controller.metrics import JobFigures, Metrics, Recovery
from llmbatch.runtime.control import serving
from promkit import ROOT, panels, program, prometheus

sys.path.insert(0, str(ROOT / "docs"))
from draw_dashboard import ask, draw, sent

PASSES, NOTICE_AT, SECONDS_A_PASS = 60, 25, 0.2
WINDOW = "5s"


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

    def step(self) -> None:
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


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the URL of a Prometheus that saw a job with two preemptions, and the span of it."""
    program("prometheus")
    world = Reporting(spec=spec(budget={"maxCost": 40, "prices": {"spot": 1, "onDemand": 3}}), rows=5000)
    operator = Operator(world)
    app = health.application(lambda: 0.0, lambda: True, operator.metrics)
    began = time.time()
    with serving(app, "127.0.0.1", 0) as port, prometheus(tmp_path_factory.mktemp("tsdb"), f"127.0.0.1:{port}") as url:
        for number in range(PASSES):
            if number == NOTICE_AT:
                world.notice_spot(2)
            operator.step()
            if number == NOTICE_AT:
                operator.metrics.notice_to_runtime.observe(0.2)
            time.sleep(SECONDS_A_PASS)
        yield url, (began, time.time())


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(value)) for found in series for _, value in found["values"])


@pytest.mark.parametrize(
    ("title", "queries"), list(panels()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_panel_has_data(title: str, queries: list[str], filled: Any) -> None:
    url, span = filled
    for query in queries:
        assert has_data(ask(url, sent(query, WINDOW), *span, step=1)), f"{title}: {query}"


def test_no_alert_fires_over_a_job_that_goes_well(filled: Any) -> None:
    url, span = filled
    assert not ask(url, 'ALERTS{alertstate="firing"}', *span, step=1)


def test_the_dashboard_can_be_drawn(filled: Any, tmp_path: Path) -> None:
    url, span = filled
    draw(url, *span, WINDOW, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")
