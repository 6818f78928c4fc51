"""Jobs, pods and snapshots for the tests of the controller's decisions."""

from __future__ import annotations

from typing import Any

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings

UID = "4f8f6d0e-6f4e-4e57-9d57-0f6a3f6d9d11"
SETTINGS = OperatorSettings(image="registry.example/llmbatch:1")
GPU_STAGE: dict[str, Any] = {
    "name": "say",
    "engine": "simulated",
    "prompt": {"user": "Say: {{ text }}"},
    "replicas": {"max": 4},
    "resources": {"gpus": 1},
}
SPOT = {"key": "example.com/spot", "operator": "Exists", "effect": "NoSchedule"}


def spec(**changes: Any) -> LLMBatchJobSpec:
    """Return the spec of a job of one GPU stage on spot and on-demand capacity; None removes a field."""
    document: dict[str, Any] = {
        "input": {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": [GPU_STAGE],
        "output": {"uri": "s3://corpus/out/"},
        "capacity": {
            "spot": {"max": 4, "nodeSelector": {"example.com/capacity": "spot"}, "tolerations": [SPOT]},
            "onDemand": {"max": 2, "nodeSelector": {"example.com/capacity": "on-demand"}},
        },
        **changes,
    }
    return LLMBatchJobSpec.model_validate({key: value for key, value in document.items() if value is not None})


def job(name: str = "summarise", **changes: Any) -> JobObservation:
    """Return a job as the API server would give it."""
    return JobObservation(**{"name": name, "namespace": "team", "uid": UID, "spec": spec(), **changes})
