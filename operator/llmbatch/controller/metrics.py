"""The operator's own figures, for Prometheus. Labels are bounded: no job, pod or node is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PASS_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
NOTICE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters and histograms of one operator process."""

    def __init__(self, phases: Callable[[], Mapping[str, int]], writes: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Live(phases, writes))
        self.passes = Histogram(
            "llmbatch_pass_seconds", "A pass over a job", buckets=PASS_SECONDS, registry=self.registry
        )
        self.failures = Counter(
            "llmbatch_pass_failures", "Passes that an error ended, by its class", ["error"], registry=self.registry
        )
        self.actions = Counter("llmbatch_actions", "Actions carried out, by kind", ["action"], registry=self.registry)
        self.status_writes = Counter("llmbatch_status_writes", "Statuses written", registry=self.registry)
        self.preemptions = Counter("llmbatch_preemptions", "Workers put on notice or lost", registry=self.registry)
        self.notice_to_runtime = Histogram(
            "llmbatch_notice_to_runtime_seconds",
            "From the event of a node or pod that dooms a worker until the runtime took the Capacity that names it",
            buckets=NOTICE_SECONDS,
            registry=self.registry,
        )


class _Live(Collector):
    def __init__(self, phases: Callable[[], Mapping[str, int]], writes: Callable[[], int]) -> None:
        self._phases, self._writes = phases, writes

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("llmbatch_jobs", "Jobs, by phase", labels=["phase"])
        for phase, count in sorted(self._phases().items()):
            jobs.add_metric([phase], count)
        yield jobs
        writes = GaugeMetricFamily("llmbatch_api_writes", "Requests that could change an object, since the start")
        writes.add_metric([], self._writes())
        yield writes
