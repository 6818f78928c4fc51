"""Builders of the objects a job owns. Pure: arguments in, a plain manifest out."""

from __future__ import annotations

from typing import Any

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.children.support import (
    build_head_budget,
    build_network_policy,
    build_run_spec,
    build_secret,
    build_service_account,
    run_spec_of,
)
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings


def build_support(job: JobObservation, spec: LLMBatchJobSpec, settings: OperatorSettings) -> list[dict[str, Any]]:
    """Return every child but the RayCluster, in the order of creation; the Secret is without its token."""
    policy = [build_network_policy(job, settings)] if settings.network_policy else []
    return [
        build_service_account(job),
        build_secret(job),
        build_run_spec(job, run_spec_of(job, spec)),
        *policy,
        build_head_budget(job),
    ]
