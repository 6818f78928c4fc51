"""RunSpec: what the controller, or the CLI, hands to one attempt of the runtime. Immutable."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from llmbatch.api.base import Document
from llmbatch.api.job import LLMBatchJob, LLMBatchJobSpec, Stage

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

    def to_text(self) -> str:
        """Return JSON without what is as by default.

        A runtime of an earlier version refuses a field that it does not know, for it could not do what the user asked.
        So it sees the new ones only of a job that uses them.
        """
        return self.model_dump_json(by_alias=True, exclude_defaults=True)


def spec_hash(spec: LLMBatchJobSpec) -> str:
    """Return 16 hex digits over everything that decides the content of the output.

    Input, prompts, models, sampling, format and shard size count; how many replicas, which GPUs, batch sizes,
    credentials and addresses of storage do not: a job may move and scale between attempts. What is as by default does
    not count either, so that a field which a later version adds leaves the hash of the jobs there are as it was.
    """
    decisive = json.dumps(_decisive(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def _decisive(spec: LLMBatchJobSpec) -> dict[str, Any]:
    return {
        "input": _chosen(spec.input, {"storage", "unique_ids"}),
        "stages": [_decisive_stage(stage) for stage in spec.stages],
        "output": _chosen(spec.output, {"storage", "uri"}),
        "shardRows": spec.shard_rows,
    }


def _decisive_stage(stage: Stage) -> dict[str, Any]:
    chosen = _chosen(stage, {"replicas", "resources", "batch_size", "endpoint", "simulation"})
    simulation = _chosen(stage.simulation, {"seconds_per_row", "load_seconds"})
    return {**chosen, "simulation": simulation} if simulation else chosen


def _chosen(part: Document, leaving_out: set[str]) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude=leaving_out, exclude_defaults=True)


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
