"""What one pass of decisions costs, by the number of workers, and what reading a node's notice costs.

    PYTHONPATH=operator python benchmarks/decide_cost.py --workers 10 100 1000 --seeds 5

A running job of so many spot workers, each on a node of its own; a tenth on notice, a tenth waiting for a node. Prints
the median milliseconds of `decide()` over the seeds, the ratio to the smallest fleet of the same run (the baseline),
and that ratio divided by the ratio of the fleets: 1 is linear, less is better. Snapshots are built before the clock
starts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from llmbatch.api.conditions import Condition
from llmbatch.api.job import LLMBatchJobSpec, LLMBatchJobStatus, RowProgress
from llmbatch.api.progress import Progress
from llmbatch.core.job.decide import decide
from llmbatch.core.job.snapshot import (
    JobObservation,
    NodeObservation,
    PodObservation,
    RayApiObservation,
    RayClusterObservation,
    RayJobObservation,
    RuntimeObservation,
    Snapshot,
    WorkerGroupObservation,
)
from llmbatch.core.job.times import rfc3339
from llmbatch.core.preemption.classify import Classifier

NOW = 1_800_000_000.0
UID = "4f8f6d0e-6f4e-4e57-9d57-0f6a3f6d9d11"
STAGE = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"gpus": 1}}
REPEATS = 5


def node(name: str, *, doomed: bool) -> dict[str, Any]:
    """A Node with the labels and conditions of a managed cluster."""
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    if doomed:
        taints.append({"key": "aws-node-termination-handler/spot-itn", "value": name, "effect": "NoSchedule"})
    labels = {f"example.com/label-{index}": "x" for index in range(30)}
    conditions = [
        {
            "type": f"C{index}",
            "status": "False",
            "reason": "Fine",
            "message": "fine",
            "lastTransitionTime": rfc3339(NOW),
        }
        for index in range(12)
    ]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"conditions": [*conditions, {"type": "Ready", "status": "True"}]},
    }


def worker(number: int, draw: random.Random) -> PodObservation:
    waits = number % 10 == 1
    return PodObservation(
        name=f"summarise-spot-worker-{number:05}",
        uid=str(number),
        group="spot",
        phase="Pending" if waits else "Running",
        ready=not waits,
        created_at=NOW - draw.uniform(10, 5000),
        node=None if waits else f"node-{number}",
        address=f"10.0.{number // 250}.{number % 250}",
        gpus=1,
        unschedulable="0/9 nodes are available: 9 Insufficient nvidia.com/gpu." if waits else "",
    )


def snapshot(workers: int, seed: int) -> Snapshot:
    """A running job as the observer would hand it over, its children taken to be there."""
    draw, table = random.Random(seed), Classifier()
    spec = LLMBatchJobSpec.model_validate(
        {
            "input": {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id"},
            "stages": [STAGE],
            "output": {"uri": "s3://corpus/out/"},
            "capacity": {"spot": {"max": workers}, "onDemand": {"max": workers}},
        }
    )
    conditions = tuple(
        Condition(type=kind, status="True", reason="Test", last_transition_time=rfc3339(NOW - 600))
        for kind in ("Accepted", "ClusterReady", "Running")
    )
    status = LLMBatchJobStatus(
        conditions=conditions,
        attempt=1,
        attempt_started_at=rfc3339(NOW - 500),
        started_at=rfc3339(NOW - 600),
        updated_at=rfc3339(NOW - 60),
        ray_cluster_name="summarise",
    )
    head = PodObservation(name="head", group="head", phase="Running", ready=True, created_at=NOW - 600, node="n")
    pods = [worker(number, draw) for number in range(workers)]
    nodes = tuple(
        NodeObservation(name=pod.node, notice=table.node(node(pod.node, doomed=number % 10 == 0)))
        for number, pod in enumerate(pods)
        if pod.node is not None
    )
    rows = RowProgress(rows_total=1_000_000, rows_completed=4000, estimated_remaining_seconds=9000)
    groups = (
        WorkerGroupObservation(name="spot", index=0, replicas=workers),
        WorkerGroupObservation(name="on-demand", index=1),
    )
    return Snapshot(
        now=NOW,
        job=JobObservation(name="summarise", namespace="team", uid=UID, spec=spec, status=status),
        cluster=RayClusterObservation(name="summarise", uid="c", created_at=NOW - 600, head_ready=True, groups=groups),
        pods=(head, *pods),
        nodes=nodes,
        ray=RayApiObservation(reachable=True, jobs=(RayJobObservation(submission_id=f"{UID}-1", state="RUNNING"),)),
        runtime=RuntimeObservation(progress=Progress(state="running", rows=rows)),
    )


def milliseconds(call: Callable[[], object]) -> float:
    """The fastest of some calls: the rest is the machine's other work."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    fleets = sorted(arguments.workers)
    costs = {
        workers: [milliseconds(lambda s=snapshot(workers, seed): decide(s)) for seed in range(arguments.seeds)]
        for workers in fleets
    }
    base = statistics.median(costs[fleets[0]])
    print(
        "| workers | decide() ms, median | min to max over seeds | ratio to the first row | ratio / ratio of workers |"
    )
    print("|---|---|---|---|---|")
    for workers, found in costs.items():
        median = statistics.median(found)
        ratio = median / base
        print(
            f"| {workers} | {median:.2f} | {min(found):.2f} to {max(found):.2f} | {ratio:.2f} "
            f"| {ratio / (workers / fleets[0]):.2f} |"
        )
    table, body = Classifier(), node("n", doomed=True)
    reading = milliseconds(lambda: table.node(body))
    print(f"\nnotice off a node with 30 labels, 13 conditions and 2 taints: {reading:.3f} ms")


if __name__ == "__main__":
    main()
