"""Builders of the objects a job owns. Pure: arguments in, a plain manifest out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.children.cluster import build_ray_cluster
from llmbatch.core.job.children.support import (
    build_head_budget,
    build_network_policy,
    build_run_spec,
    build_secret,
    build_service_account,
    run_spec_of,
)
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings


def build_children(
    job: JobObservation,
    spec: LLMBatchJobSpec,
    settings: OperatorSettings,
    replicas: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Return every child of a job, in the order of creation; the Secret is without its token.

    Args:
        job: The job.
        spec: Its spec.
        settings: The operator's settings.
        replicas: Workers a group to begin with; left out, none.

    Raises:
        SpecError: `spec.podOverlay` is not valid.
    """
    run_spec = build_run_spec(job, run_spec_of(job, spec))
    cluster = build_ray_cluster(job, spec, settings, run_spec["metadata"]["name"], replicas)
    return [*build_support(job, settings), run_spec, cluster]


def build_support(job: JobObservation, settings: OperatorSettings) -> list[dict[str, Any]]:
    """Return the children that do not depend on the spec: identity, token, network policy, disruption budget."""
    policy = [build_network_policy(job, settings)] if settings.network_policy else []
    return [build_service_account(job), build_secret(job), *policy, build_head_budget(job)]
