"""The operator's and a run's metrics ports, and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from controllerkit import NOW, job, pod, progress, running_snapshot, running_status, spec
from llmbatch.api.job import LLMBatchJobStatus, Preemptions, RowProgress
from llmbatch.api.progress import Drains, PoolProgress, Progress
from llmbatch.controller import health
from llmbatch.controller.metrics import JobFigures, Metrics
from llmbatch.core.job.snapshot import Notice, RuntimeObservation, Snapshot
from llmbatch.core.job.times import rfc3339
from llmbatch.runtime.control import Board, application, serving
from llmbatch.runtime.desired import Desired

TOKEN = "the-token"
OWNER = {"job_namespace": "team", "job_name": "summarise"}
POOL = PoolProgress(
    name="say",
    target=4,
    ready=3,
    pending=1,
    queued_rows=7,
    rows_completed=30,
    service_seconds_per_row=0.5,
    load_seconds=40,
)


def scrape(port: int, token: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urlopen(Request(f"http://127.0.0.1:{port}/metrics", None, headers), timeout=60) as answer:
        return bytes(answer.read()).decode()


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


def snapshot(**fields: object) -> Snapshot:
    """A job with a budget that runs on three spot workers and one on demand, one of them on notice."""
    notice = Notice(kind="reclaim", source="DisruptionTarget: EvictionByEvictionAPI", deadline=NOW + 20)
    workers = (pod("w0"), pod("w1", ready=False), pod("w2", notice=notice), pod("w3", "on-demand"))
    budget = {"maxCost": 40, "prices": {"spot": 1, "onDemand": 3}}
    rows = RowProgress(rows_total=100, rows_completed=40, rows_failed=1, estimated_remaining_seconds=90)
    run = progress(rows=rows, pools=(POOL,), gpus=3, useful_gpus=5, drains=Drains(clean=2, missed=1), rows_repeated=8)
    known: dict[str, object] = {
        "job": job(spec=spec(budget=budget), status=running_status(estimated_cost=12.5)),
        "pods": (pod("head", "head"), *workers),
        "runtime": RuntimeObservation(progress=run),
    }
    return running_snapshot(**{**known, **fields})


class Operator:
    """The operator's port, without the operator."""

    def __init__(self, *jobs: JobFigures) -> None:
        self.jobs = list(jobs)
        self.metrics = Metrics(lambda: {"Running": len(self.jobs)}, lambda: self.jobs, lambda: 17)

    @contextmanager
    def served(self) -> Iterator[int]:
        app = health.application(lambda: 0.0, lambda: True, self.metrics)
        with serving(app, "127.0.0.1", 0) as port:
            yield port


def operator_text(operator: Operator) -> str:
    with operator.served() as port:
        return scrape(port)


def runtime_text() -> str:
    board = Board()
    board.post(snapshot().runtime.progress or Progress())
    with serving(application(TOKEN, Desired(), board), "127.0.0.1", 0) as port:
        return scrape(port, TOKEN)


def counted(*names: str) -> LLMBatchJobStatus:
    preemptions = Preemptions(total=len(names), counted={name: rfc3339(NOW) for name in names})
    return running_status(preemptions=preemptions)
