"""What a RayCluster needs beside it: identity, token, RunSpec, network policy, disruption budget."""

from __future__ import annotations

from typing import Any

from llmbatch.api.job import LLMBatchJob, LLMBatchJobSpec, ObjectMeta
from llmbatch.api.runspec import RunSpec, run_spec
from llmbatch.core.job.children.names import (
    JOB_LABEL,
    RAY_CLUSTER_LABEL,
    RAY_NODE_TYPE_LABEL,
    child_name,
    cluster_name,
    fingerprint,
    labels,
    owner_reference,
)
from llmbatch.core.job.children.pods import CONTROL_PORT, JOBS_PORT, METRICS_PORT, RUN_SPEC_KEY, TOKEN_KEY
from llmbatch.core.job.peers import NetworkPeer
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings


def build_service_account(job: JobObservation) -> dict[str, Any]:
    """Return the identity of the Ray pods: no rights, no token; for a cloud's workload identity."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(job, child_name(job.name, "ray"), "cluster"),
        "automountServiceAccountToken": False,
    }


def build_secret(job: JobObservation, token: str | None = None) -> dict[str, Any]:
    """Return the Secret that Ray's token authentication and the control endpoint share.

    Args:
        job: The job.
        token: The token, 32 random bytes or more in text form; None leaves it out, for a manifest to be shown.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(job, child_name(job.name, "token"), "cluster"),
        "type": "Opaque",
        "immutable": True,
        **({} if token is None else {"stringData": {TOKEN_KEY: token}}),
    }


def run_spec_of(job: JobObservation, spec: LLMBatchJobSpec) -> RunSpec:
    """Return the RunSpec that every attempt on one RayCluster reads; the attempt's number is on its command line."""
    metadata = ObjectMeta(name=job.name, namespace=job.namespace, uid=job.uid)
    return run_spec(LLMBatchJob(metadata=metadata, spec=spec))


def run_spec_name(job: JobObservation, document: RunSpec) -> str:
    """Return the ConfigMap's name: it changes with the content, since the ConfigMap is immutable."""
    return child_name(job.name, f"run-{fingerprint(document.to_text())}")


def build_run_spec(job: JobObservation, document: RunSpec) -> dict[str, Any]:
    """Return the ConfigMap that is mounted on the head."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, run_spec_name(job, document), "run-spec"),
        "immutable": True,
        "data": {RUN_SPEC_KEY: document.to_text()},
    }


def build_network_policy(job: JobObservation, settings: OperatorSettings) -> dict[str, Any]:
    """Return the policy that lets in the job's own pods, and others to single ports.

    Ray's Jobs API runs any command, so only the operator's namespace and the peers in its settings reach it. Egress
    stays open: object stores, model hubs, DNS.
    """
    own_pods = {"podSelector": {"matchLabels": {JOB_LABEL: job.name}}}
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}}
    ingress = [{"from": [own_pods]}, _rule([operator, *_peers(settings.head_from)], JOBS_PORT, CONTROL_PORT)]
    if settings.ray_metrics_from:
        ingress.append(_rule(_peers(settings.ray_metrics_from), METRICS_PORT))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, child_name(job.name, "ray"), "cluster"),
        "spec": {
            "podSelector": {"matchLabels": {JOB_LABEL: job.name}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _rule(peers: list[dict[str, Any]], *ports: int) -> dict[str, Any]:
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _peers(peers: tuple[NetworkPeer, ...]) -> list[dict[str, Any]]:
    return [peer.to_wire() for peer in peers]


def build_head_budget(job: JobObservation) -> dict[str, Any]:
    """Return the PodDisruptionBudget of the head, whose loss ends the attempt.

    Workers have none: on spot a budget only delays the drain until the machine is taken anyway. The head is counted
    as `minAvailable`: for `maxUnavailable` Kubernetes asks the pod's owner for a scale, which a RayCluster has not.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(job, child_name(job.name, "head"), "head"),
        "spec": {
            "minAvailable": 1,
            "selector": {
                "matchLabels": {RAY_CLUSTER_LABEL: cluster_name(job.name), RAY_NODE_TYPE_LABEL: "head"},
            },
        },
    }


def _metadata(job: JobObservation, name: str, component: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": labels(job.name, component),
        "ownerReferences": [owner_reference(job.name, job.uid)],
    }
