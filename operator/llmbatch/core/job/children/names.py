"""Names, labels and ownership of a job's children. Deterministic: a repeated create meets itself."""

from __future__ import annotations

import hashlib
from typing import Any

from llmbatch.api.base import API_VERSION, GROUP, KIND

JOB_LABEL = f"{GROUP}/job"
CAPACITY_LABEL = f"{GROUP}/capacity"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
KUEUE_LABELS = (QUEUE_LABEL, "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds")
"""What Kueue reads on a RayCluster, and so is passed on from the job."""
PODS_FROM_ANNOTATION = f"{GROUP}/pods-from"
RAY_CLUSTER_LABEL = "ray.io/cluster"
RAY_NODE_TYPE_LABEL = "ray.io/node-type"
FINGERPRINT = 8
LONGEST_NAME = 63
"""A label value and a DNS label."""
LONGEST_CLUSTER_NAME = 53
"""KubeRay 1.6 refuses a longer one (`MaxRayClusterNameLength`), to have room for `-head-svc` and the like."""


def cluster_name(job: str) -> str:
    """Return the name of the job's RayCluster: the job's, made a DNS-1035 label as KubeRay demands.

    One name for every attempt: the API server then holds at most one RayCluster of a job.
    """
    name = job if job[0].isalpha() else f"job-{job}-{fingerprint(job)}"
    return _fit(name, LONGEST_CLUSTER_NAME)


def child_name(job: str, role: str) -> str:
    """Return `<job>-<role>`, shortened with a fingerprint where it would exceed 63 characters."""
    return _fit(f"{job}-{role}", LONGEST_NAME)


def submission_id(uid: str, attempt: int) -> str:
    """Return the id under which Ray knows an attempt."""
    return f"{uid}-{attempt}"


def labels(job: str, component: str) -> dict[str, str]:
    """Return the labels of a child.

    `app.kubernetes.io/instance` is left out on purpose: Argo CD takes it for its own tracking label and prunes
    objects that bear the name of an application.
    """
    return {
        "app.kubernetes.io/name": "llmbatch",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "llmbatch",
        JOB_LABEL: job,
    }


def owner_reference(job: str, uid: str) -> dict[str, Any]:
    """Return the reference by which garbage collection removes a child with its job."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def fingerprint(text: str) -> str:
    """Return 8 hex digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT]


def _fit(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    return f"{name[: longest - FINGERPRINT - 1].rstrip('-')}-{fingerprint(name)}"
