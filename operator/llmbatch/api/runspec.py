"""RunSpec: what the controller, or the CLI, hands to one attempt of the runtime. Immutable."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from llmbatch.api.base import Document
from llmbatch.api.job import LLMBatchJob, LLMBatchJobSpec

PRELOADED_MODULES = ("ray.data", "llmbatch.runtime.stages")
"""What every replica imports. A worker process of Ray that stands by has done so, where Ray is told of them with
`RAY_preload_python_modules`."""


class RunSpec(Document):
    """One attempt at a job."""

    job: str
    """`namespace/name` of the job."""
    uid: str
    """The job's uid; in local mode its name."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counts the attempts, from 1."""
    spec: LLMBatchJobSpec
    """The job's spec."""
    spec_hash: str
    """Identifies what the output is a function of; see `spec_hash`."""


def spec_hash(spec: LLMBatchJobSpec) -> str:
    """Return 16 hex digits over everything that decides the content of the output.

    Input, prompts, models, sampling, format and shard size count; how many replicas, which GPUs, batch sizes,
    credentials and addresses of storage do not: a job may move and scale between attempts.
    """
    decisive = json.dumps(_decisive(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def _decisive(spec: LLMBatchJobSpec) -> dict[str, Any]:
    stages = [
        stage.model_dump(
            mode="json",
            exclude={"replicas": True, "resources": True, "batch_size": True, "endpoint": True}
            | {"simulation": {"seconds_per_row", "load_seconds"}},
        )
        for stage in spec.stages
    ]
    return {
        "input": spec.input.model_dump(mode="json", exclude={"storage", "unique_ids"}),
        "stages": stages,
        "output": spec.output.model_dump(mode="json", exclude={"storage", "uri"}),
        "shardRows": spec.shard_rows,
    }


def run_spec(job: LLMBatchJob, attempt: int = 1) -> RunSpec:
    """Return the RunSpec of one attempt at `job`."""
    meta = job.metadata
    return RunSpec(
        job=f"{meta.namespace or 'local'}/{meta.name}",
        uid=meta.uid or meta.name,
        attempt=attempt,
        spec=job.spec,
        spec_hash=spec_hash(job.spec),
    )
