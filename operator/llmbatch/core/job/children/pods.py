"""Pod templates of the head and the workers."""

from __future__ import annotations

import math
from typing import Any

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.api.runspec import PRELOADED_MODULES
from llmbatch.core.job.children.names import CAPACITY_LABEL, child_name, labels
from llmbatch.core.job.children.overlay import RAY_CONTAINER, merge_overlay
from llmbatch.core.job.snapshot import ON_DEMAND_GROUP, SPOT_GROUP, OperatorSettings

CONTROL_PORT = 8200
JOBS_PORT = 8265
METRICS_PORT = 8080
"""Ray's metrics: KubeRay's default for `metrics-export-port`."""
RUN_SPEC_FOLDER = "/etc/llmbatch"
RUN_SPEC_KEY = "runspec.json"
TOKEN_KEY = "auth_token"  # noqa: S105 - the key's name, fixed by KubeRay
UNREACHABLE_SECONDS = 15
"""How long a worker outlives its node's silence. Kubernetes' default of 300 s would keep a dead worker's place."""
DRAIN_MARGIN_SECONDS = 5
"""Ray's own drain on SIGTERM ends this long before the kubelet kills the pod (both default to 30 s and race)."""
RAY_USER = 1000
TASK_CORES = 1
"""Cores of a worker that no replica reserves: reading and committing are tasks, and the head runs none."""

_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}


def head_template(job: str, run_spec: str, spec: LLMBatchJobSpec, settings: OperatorSettings) -> dict[str, Any]:
    """Return the head's pod template: on-demand capacity, not evicted voluntarily, with the RunSpec mounted.

    Args:
        job: Name of the job.
        run_spec: Name of the ConfigMap that holds the RunSpec.
        spec: The job's spec.
        settings: The operator's settings.

    Raises:
        SpecError: `spec.podOverlay` is not valid.
    """
    on_demand = spec.capacity.on_demand
    selector = settings.head_node_selector or on_demand.node_selector
    container = _container(spec, settings)
    container["env"].append({"name": "LLMBATCH_TOKEN", "valueFrom": _token(job)})
    container["ports"] = [
        {"name": "dashboard", "containerPort": JOBS_PORT},
        {"name": "control", "containerPort": CONTROL_PORT},
    ]
    container["volumeMounts"] = [{"name": "run-spec", "mountPath": RUN_SPEC_FOLDER, "readOnly": True}]
    container["resources"] = {
        "requests": {"cpu": settings.head_cpu, "memory": settings.head_memory},
        "limits": {"memory": settings.head_memory},
    }
    pod = _pod(job, settings, container)
    pod |= {
        "nodeSelector": dict(selector),
        "tolerations": [*settings.head_tolerations, *on_demand.tolerations],
        "volumes": [{"name": "run-spec", "configMap": {"name": run_spec}}],
    }
    _off_spot(pod, spec, selector)
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    return _template(job, "head", pod, spec)


def worker_template(job: str, group: str, spec: LLMBatchJobSpec, settings: OperatorSettings) -> dict[str, Any]:
    """Return the pod template of a worker group.

    Args:
        job: Name of the job.
        group: spot or on-demand.
        spec: The job's spec.
        settings: The operator's settings.

    Raises:
        SpecError: `spec.podOverlay` is not valid.
    """
    capacity = spec.capacity.spot if group == SPOT_GROUP else spec.capacity.on_demand
    container = _container(spec, settings)
    drain = max(1, settings.grace_seconds - DRAIN_MARGIN_SECONDS)
    container["env"] += [
        {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(drain)},
        {"name": "RAY_preload_python_modules", "value": ",".join(PRELOADED_MODULES)},
    ]
    container["resources"] = _worker_resources(spec, settings)
    pod = _pod(job, settings, container)
    pod |= {
        "nodeSelector": dict(capacity.node_selector),
        "tolerations": [*_short_tolerations(), *_gpu_tolerations(spec, settings), *capacity.tolerations],
        "terminationGracePeriodSeconds": settings.grace_seconds,
    }
    if group == ON_DEMAND_GROUP:
        _off_spot(pod, spec, capacity.node_selector)
    template = _template(job, "worker", pod, spec)
    template["metadata"]["labels"][CAPACITY_LABEL] = group
    return template


def _template(job: str, component: str, pod: dict[str, Any], spec: LLMBatchJobSpec) -> dict[str, Any]:
    # Voluntary disruption (consolidation, scale-down) would cost a model load. No notice of the cloud obeys these.
    kept = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    metadata = {"labels": labels(job, component), "annotations": kept}
    return merge_overlay({"metadata": metadata, "spec": pod}, spec.pod_overlay)


def _pod(job: str, settings: OperatorSettings, container: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": child_name(job, "ray"),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": RAY_USER,
            "fsGroup": RAY_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return pod


def _container(spec: LLMBatchJobSpec, settings: OperatorSettings) -> dict[str, Any]:
    secrets = secret_names(spec)
    container: dict[str, Any] = {
        "name": RAY_CONTAINER,
        "image": spec.image or settings.image,
        "env": [],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in secrets]
    return container


def secret_names(spec: LLMBatchJobSpec) -> list[str]:
    """Return the Secrets of the job's namespace that the pods read, in order."""
    names = {storage.secret_name for storage in (spec.input.storage, spec.output.storage)}
    return sorted(name for name in names if name)


def _worker_resources(spec: LLMBatchJobSpec, settings: OperatorSettings) -> dict[str, Any]:
    needed = max(_replica_cores(spec, stage) for stage in spec.stages) + TASK_CORES
    cpu = settings.worker_cpu if cores(settings.worker_cpu) >= needed else str(math.ceil(needed))
    limits: dict[str, Any] = {"memory": settings.worker_memory}
    if gpus := spec.worker_gpus():
        limits[settings.gpu_resource] = str(gpus)
    return {"requests": {"cpu": cpu, **limits}, "limits": limits}


def _replica_cores(spec: LLMBatchJobSpec, stage: Stage) -> float:
    """Return the cores that the replicas of a stage reserve when they fill a worker's GPUs."""
    replicas = spec.worker_gpus() // stage.resources.gpus if stage.resources.gpus else 1
    return stage.resources.cpus * max(1, replicas)


def cores(quantity: str) -> float:
    """Return a Kubernetes CPU quantity in cores: `500m` is 0.5."""
    suffix = quantity[-1]
    return float(quantity[:-1]) * _SUFFIXES[suffix] if suffix in _SUFFIXES else float(quantity)


def _short_tolerations() -> list[dict[str, Any]]:
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": UNREACHABLE_SECONDS,
        }
        for state in ("not-ready", "unreachable")
    ]


def _gpu_tolerations(spec: LLMBatchJobSpec, settings: OperatorSettings) -> list[dict[str, Any]]:
    """Return the toleration of the taint that keeps pods without GPUs off GPU nodes, named after the resource."""
    if not spec.worker_gpus():
        return []
    return [{"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]


def _off_spot(pod: dict[str, Any], spec: LLMBatchJobSpec, selector: dict[str, str]) -> None:
    """Keep a pod off the spot nodes: off every node that bears all of spot's labels.

    Terms are alternatives, so "lacks one of the labels" is one term a label.
    """
    spot = spec.capacity.spot.node_selector
    if not spot or spot.items() <= selector.items():
        return
    terms = [
        {"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]}
        for key, value in sorted(spot.items())
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    pod["affinity"] = {"nodeAffinity": required}


def _token(job: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": child_name(job, "token"), "key": TOKEN_KEY}}
