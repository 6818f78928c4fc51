"""Every panel's query against a real Prometheus, which scrapes the figures of a job that is really decided on.

The cluster around the decisions is the one in memory of `jobworld`, and its driver reports one stage.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from draw_dashboard import ask, draw, sent

from dashboardkit import Operator, budgeted
from llmbatch.runtime.control import serving
from promkit import at, has_data, panels, program, prometheus, wait_for_scrape

PASSES, NOTICE_AT, SECONDS_A_PASS, PASSES_A_SCRAPE = 60, 25, 0.2, 5
WINDOW = "5s"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the URL of a Prometheus that saw a job with two preemptions, and the span of it."""
    program("prometheus")
    operator = Operator(budgeted(5000))
    began = time.time()
    with (
        serving(operator.app, "127.0.0.1", 0) as port,
        prometheus(tmp_path_factory.mktemp("tsdb"), at(f"127.0.0.1:{port}")) as url,
    ):
        scraped = wait_for_scrape(url)
        for number in range(PASSES):
            if number == NOTICE_AT:
                operator.preempt()
            operator.step()
            time.sleep(SECONDS_A_PASS)
            if number % PASSES_A_SCRAPE == 0:
                scraped = wait_for_scrape(url, after=scraped)
        yield url, (began, time.time())


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
