"""What only real nodes and a real driver find out is said in seconds, and nothing stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from testbed.store import Store

from e2ekit import PATIENCE, World, world
from llmbatch.api.base import KIND
from operatorkit import Body

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]


def named(document: Body, name: str, **spec: Any) -> Body:
    output = {**document["spec"]["output"], "uri": f"{document['spec']['output']['uri']}-{name}"}
    return {**document, "metadata": {"name": name}, "spec": {**document["spec"], "output": output, **spec}}


def told(job: World, name: str, kind: str, reason: str) -> str:
    """Wait until a job's condition is true for a reason, and return the message."""
    job.api.wait(lambda: job.api.condition(name, kind)[:2] == ("True", reason), PATIENCE)
    return job.api.condition(name, kind)[2]


def pods_of(job: World, name: str) -> list[Body]:
    return [pod for pod in job.api.items("Pod") if pod["metadata"]["labels"].get("ray.io/cluster") == name]


def test_what_cannot_run_is_said_and_leaves_nothing(kubeconfig: Path, store: Store, tmp_path: Path):
    with world(kubeconfig, store, tmp_path, checked=False) as (job, controller, _):
        job.fill(20)
        job.come("on-demand")
        job.come("spot")
        document = job.job(seconds_per_row=0.1, workers=1)
        nowhere = {**document["spec"]["input"], "uri": f"s3://{job.bucket}/nowhere/*.jsonl"}
        large = [{**stage, "resources": {"gpus": 8}} for stage in document["spec"]["stages"]]
        image = "unreachable.example/llmbatch:1"
        controller.start()

        job.api.create(named(document, "image", image=image))
        assert image in told(job, "image", "Stalled", "ImageUnavailable")

        job.api.create(named(document, "input", input=nowhere))
        job.api.create(named(document, "gpus", stages=large))
        assert "Insufficient nvidia.com/gpu" in told(job, "gpus", "Stalled", "Unschedulable")
        message = told(job, "input", "Failed", "InputError")
        assert "input.uri" in message
        assert "nowhere" in message

        job.api.wait(lambda: not pods_of(job, "input"), PATIENCE)
        for name in ("image", "gpus"):
            job.api.delete(KIND, name)
        job.api.wait(lambda: not job.api.items("Pod") and not job.api.items("RayCluster"), PATIENCE)
