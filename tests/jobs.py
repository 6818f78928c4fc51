"""Jobs for the tests: the smallest spec, changed where a test cares."""

from pathlib import Path
from typing import Any

from llmbatch.api.job import LLMBatchJob, Stage


def stage(name: str = "say", **changes: Any) -> Stage:
    """Return a simulated stage over the field `text`."""
    document = {"name": name, "engine": "simulated", "prompt": {"user": "Say: {{ text }}"}, **changes}
    return Stage.model_validate(document)


def job(folder: Path, *, stages: list[dict[str, Any]] | None = None, **changes: Any) -> LLMBatchJob:
    """Return a job that reads `folder/in/*.jsonl` and writes `folder/out`."""
    spec: dict[str, Any] = {
        "input": {"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": stages
        or [
            {
                "name": "say",
                "engine": "simulated",
                "prompt": {"user": "Say: {{ text }}"},
                "resources": {"cpus": 0.2},
                "batchSize": 8,
            }
        ],
        "output": {"uri": f"{folder}/out", "format": "jsonl"},
        "shardRows": 16,
        **changes,
    }
    return LLMBatchJob.model_validate({"metadata": {"name": "test"}, "spec": spec})
