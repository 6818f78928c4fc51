"""Progress as Prometheus metrics. Labels are bounded: stages, states, results; never rows, prompts or pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmbatch.api.progress import PoolProgress, Progress

REPLICA_STATES = ("ready", "pending", "restarting", "retiring")


class ProgressCollector(Collector):
    """Turns the newest Progress into metrics at each scrape."""

    def __init__(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        """Yield every metric of a run."""
        progress = self._progress()
        rows = CounterMetricFamily("llmbatch_rows", "Rows committed, earlier attempts included.", labels=["result"])
        rows.add_metric(["succeeded"], progress.rows.rows_completed - progress.rows.rows_failed)
        rows.add_metric(["failed"], progress.rows.rows_failed)
        yield rows
        tokens = CounterMetricFamily("llmbatch_tokens", "Tokens of committed rows.", labels=["kind"])
        tokens.add_metric(["prompt"], progress.rows.prompt_tokens)
        tokens.add_metric(["completion"], progress.rows.completion_tokens)
        yield tokens
        yield CounterMetricFamily("llmbatch_shards_committed", "Shards in the ledger.", progress.shards_committed)
        yield GaugeMetricFamily("llmbatch_rows_per_second", "Rows committed a second.", progress.rows_per_second)
        yield GaugeMetricFamily("llmbatch_gpus", "GPUs in the Ray cluster.", progress.gpus)
        if progress.useful_gpus is not None:
            yield GaugeMetricFamily("llmbatch_useful_gpus", "GPUs the job could use now.", progress.useful_gpus)
        yield from _stage_metrics(progress.pools)


def _stage_metrics(pools: Iterable[PoolProgress]) -> Iterable[Metric]:
    replicas = GaugeMetricFamily(
        "llmbatch_stage_replicas", "Replicas of a stage's actor pool.", labels=["stage", "state"]
    )
    target = GaugeMetricFamily("llmbatch_stage_target_replicas", "Replicas the allocation wants.", labels=["stage"])
    queued = GaugeMetricFamily("llmbatch_stage_queued_rows", "Rows waiting for a stage.", labels=["stage"])
    done = CounterMetricFamily("llmbatch_stage_rows", "Rows a stage finished in this attempt.", labels=["stage"])
    tokens = GaugeMetricFamily("llmbatch_stage_tokens_per_second", "Tokens a second of a stage.", labels=["stage"])
    service = GaugeMetricFamily(
        "llmbatch_stage_service_seconds_per_row", "Measured GPU-seconds a row of a stage.", labels=["stage"]
    )
    for pool in pools:
        for state in REPLICA_STATES:
            replicas.add_metric([pool.name, state], getattr(pool, state))
        target.add_metric([pool.name], pool.target)
        queued.add_metric([pool.name], pool.queued_rows)
        done.add_metric([pool.name], pool.rows_completed)
        tokens.add_metric([pool.name], pool.tokens_per_second)
        if pool.service_seconds_per_row is not None:
            service.add_metric([pool.name], pool.service_seconds_per_row)
    return replicas, target, queued, done, tokens, service


def exposition(progress: Callable[[], Progress]) -> Callable[[], bytes]:
    """Return a function that gives the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(ProgressCollector(progress))
    return lambda: generate_latest(registry)
