"""Addresses of objects on the API server."""

from __future__ import annotations

from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.crd import PLURAL

_RESOURCES = {
    KIND: (API_VERSION, PLURAL),
    "RayCluster": ("ray.io/v1", "rayclusters"),
    "Secret": ("v1", "secrets"),
    "ConfigMap": ("v1", "configmaps"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "Event": ("events.k8s.io/v1", "events"),
    "Pod": ("v1", "pods"),
}
RAY_GROUP = "/apis/ray.io/v1"
JOB_GROUP = f"/apis/{API_VERSION}"


def collection(kind: str, namespace: str) -> str:
    """Return the path of a kind's objects in a namespace."""
    version, plural = _RESOURCES[kind]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{plural}"


def single(kind: str, namespace: str, name: str) -> str:
    """Return the path of one object."""
    return f"{collection(kind, namespace)}/{name}"
