"""What wakes a job's loop, and what does not."""

import asyncio
from typing import Any

import kopf

from llmbatch.controller.handlers import Handlers
from llmbatch.controller.watch import JobKey, Watch
from llmbatch.core.job.snapshot import OperatorSettings

KEY = JobKey("team", "summarise")


class Woken:
    """Stands in for the loops: notes who is woken."""

    def __init__(self) -> None:
        self.keys: list[JobKey] = []

    def wake(self, keys: list[JobKey]) -> None:
        self.keys += keys


def handlers() -> tuple[Handlers, Woken]:
    woken = Woken()
    watch = Watch(None, nodes_watched=True)  # type: ignore[arg-type]  # no call of the API server
    return Handlers(woken, watch, OperatorSettings()), woken  # type: ignore[arg-type]


def pod(**status: Any) -> dict[str, Any]:
    labels = {
        "llmbatch.dev/job": "summarise",
        "llmbatch.dev/capacity": "spot",
        "ray.io/cluster": "summarise",
        "ray.io/node-type": "worker",
    }
    metadata = {"name": "w0", "namespace": "team", "uid": "1", "labels": labels, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"nodeName": "n1", "containers": []}, "status": status}


def deliver(made: Handlers, memo: kopf.Memo, body: dict[str, Any], kind: str = "MODIFIED") -> None:
    async def both() -> None:
        await made.index_pod(body=body, memo=memo)
        await made.pod_changed(event={"type": kind, "object": body}, body=body, memo=memo)

    asyncio.run(both())


def test_a_pod_wakes_its_job_once_for_each_thing_a_snapshot_holds_of_it():
    made, woken = handlers()
    memo = kopf.Memo()
    deliver(made, memo, pod(phase="Pending"))
    deliver(made, memo, pod(phase="Running"))
    assert woken.keys == [KEY, KEY]


def test_a_heartbeat_wakes_nobody():
    made, woken = handlers()
    memo = kopf.Memo()
    for beat in range(3):
        ready = {"type": "Ready", "status": "True", "lastProbeTime": str(beat)}
        deliver(made, memo, pod(phase="Running", conditions=[ready]))
    assert woken.keys == [KEY]


def test_a_pods_end_wakes_its_job():
    made, woken = handlers()
    memo = kopf.Memo()
    deliver(made, memo, pod())
    deliver(made, memo, pod(), "DELETED")
    assert woken.keys == [KEY, KEY]


def test_a_pod_of_no_cluster_that_bears_a_jobs_label_is_not_indexed():
    made, _ = handlers()
    stranger = pod()
    stranger["metadata"]["labels"] = {"llmbatch.dev/job": "summarise"}
    assert asyncio.run(made.index_pod(body=stranger, memo=kopf.Memo())) is None


def test_a_pod_is_indexed_by_its_cluster_and_its_job_by_its_node():
    made, _ = handlers()
    [key] = asyncio.run(made.index_pod(body=pod(), memo=kopf.Memo()))
    assert key == ("team", "summarise")
    assert asyncio.run(made.index_job_by_node(body=pod())) == {"n1": KEY}
