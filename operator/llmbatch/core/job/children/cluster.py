"""The RayCluster: one head and the worker groups `spot` and `on-demand` (KubeRay 1.6, ray.io/v1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.core.job.children.names import (
    CAPACITY_LABEL,
    KUEUE_LABELS,
    PODS_FROM_ANNOTATION,
    QUEUE_LABEL,
    child_name,
    cluster_name,
    fingerprint,
    labels,
    owner_reference,
)
from llmbatch.core.job.children.pods import head_template, worker_template
from llmbatch.core.job.snapshot import ON_DEMAND_GROUP, SPOT_GROUP, JobObservation, OperatorSettings

RAY_VERSION = "2.60.0"
GROUPS = (SPOT_GROUP, ON_DEMAND_GROUP)
"""Order of workerGroupSpecs. A JSON patch addresses a group by its place, so it never changes."""
LARGEST_GROUP = 2**31 - 1
MARKET_LABEL = "ray.io/market-type"


def build_ray_cluster(
    job: JobObservation,
    spec: LLMBatchJobSpec,
    settings: OperatorSettings,
    run_spec: str,
    replicas: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the RayCluster of a job.

    Args:
        job: The job.
        spec: Its spec.
        settings: The operator's settings.
        run_spec: Name of the ConfigMap that holds the RunSpec.
        replicas: Workers a group to begin with; left out, none.

    Raises:
        SpecError: `spec.podOverlay` is not valid.
    """
    for_kueue = {key: job.labels[key] for key in KUEUE_LABELS if key in job.labels}
    wanted = replicas or {}
    store = {"object-store-memory": str(settings.object_store_bytes)} if settings.object_store_bytes else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": cluster_name(job.name),
            "namespace": job.namespace,
            "labels": labels(job.name, "cluster") | for_kueue,
            "annotations": {PODS_FROM_ANNOTATION: pods_fingerprint(spec)},
            "ownerReferences": [owner_reference(job.name, job.uid)],
        },
        "spec": {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": False,
            "authOptions": {"mode": "token", "secretName": child_name(job.name, "token")},
            # Kueue admits a cluster that starts suspended, and unsuspends it.
            **({"suspend": True} if QUEUE_LABEL in for_kueue else {}),
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0", **store},  # noqa: S104
                "template": head_template(job.name, run_spec, spec, settings),
            },
            "workerGroupSpecs": [
                {
                    "groupName": group,
                    "replicas": wanted.get(group, 0),
                    "minReplicas": 0,
                    "maxReplicas": LARGEST_GROUP,
                    "labels": {MARKET_LABEL: group, CAPACITY_LABEL: group},
                    "rayStartParams": dict(store),
                    "template": worker_template(job.name, group, spec, settings),
                }
                for group in GROUPS
            ],
        },
    }


def pods_fingerprint(spec: LLMBatchJobSpec) -> str:
    """Return what stands for the fields of a job that shape its pods and that may change.

    The operator's settings are none of them: an upgrade replaces no RayCluster. What is left out stands for nothing,
    so neither does a field that a later version adds.
    """
    spot, on_demand = spec.capacity.spot, spec.capacity.on_demand
    fields = {
        "image": spec.image,
        "podOverlay": spec.pod_overlay,
        "spotNodeSelector": spot.node_selector,
        "spotTolerations": spot.tolerations,
        "onDemandNodeSelector": on_demand.node_selector,
        "onDemandTolerations": on_demand.tolerations,
    }
    given = {name: value for name, value in fields.items() if value}
    return fingerprint(json.dumps(given, sort_keys=True, default=str))  # YAML may hold a date
