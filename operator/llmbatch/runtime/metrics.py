"""Progress as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from llmbatch.api.progress import Progress
from llmbatch.core.figures import Sheet, read_rows, read_run


class ProgressCollector(Collector):
    """Turns the newest Progress into metrics at each scrape."""

    def __init__(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        """Yield every metric of a run."""
        progress, sheet = self._progress(), Sheet()
        read_rows(sheet, (), progress.rows)
        read_run(sheet, (), progress)
        return sheet.metrics()


def exposition(progress: Callable[[], Progress]) -> Callable[[], bytes]:
    """Return a function that gives the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(ProgressCollector(progress))
    return lambda: generate_latest(registry)
