"""Jobs, pods and snapshots for the tests of the controller's decisions."""

from __future__ import annotations

from typing import Any

from llmbatch.api.conditions import Condition
from llmbatch.api.job import CapacityStatus, LLMBatchJobSpec, LLMBatchJobStatus, RowProgress
from llmbatch.api.progress import Progress
from llmbatch.core.job.children import build_support
from llmbatch.core.job.snapshot import (
    ChildObservation,
    JobObservation,
    OperatorSettings,
    PodObservation,
    RayApiObservation,
    RayClusterObservation,
    RayJobObservation,
    RuntimeObservation,
    Snapshot,
    WorkerGroupObservation,
)
from llmbatch.core.job.times import rfc3339

UID = "4f8f6d0e-6f4e-4e57-9d57-0f6a3f6d9d11"
SETTINGS = OperatorSettings(image="registry.example/llmbatch:1")
GPU_STAGE: dict[str, Any] = {
    "name": "say",
    "engine": "simulated",
    "prompt": {"user": "Say: {{ text }}"},
    "replicas": {"max": 4},
    "resources": {"gpus": 1},
}
SPOT = {"key": "example.com/spot", "operator": "Exists", "effect": "NoSchedule"}


def spec(**changes: Any) -> LLMBatchJobSpec:
    """Return the spec of a job of one GPU stage on spot and on-demand capacity; None removes a field."""
    document: dict[str, Any] = {
        "input": {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": [GPU_STAGE],
        "output": {"uri": "s3://corpus/out/"},
        "capacity": {
            "spot": {"max": 4, "nodeSelector": {"example.com/capacity": "spot"}, "tolerations": [SPOT]},
            "onDemand": {"max": 2, "nodeSelector": {"example.com/capacity": "on-demand"}},
        },
        **changes,
    }
    return LLMBatchJobSpec.model_validate({key: value for key, value in document.items() if value is not None})


def job(name: str = "summarise", **changes: Any) -> JobObservation:
    """Return a job as the API server would give it."""
    return JobObservation(**{"name": name, "namespace": "team", "uid": UID, "spec": spec(), **changes})


NOW = 1_800_000_000.0


def condition(kind: str, holds: bool = True, reason: str = "Test") -> Condition:
    """Return a condition that flipped a minute ago."""
    status = "True" if holds else "False"
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "lastTransitionTime": rfc3339(NOW - 60)}
    )


def status(*conditions: Condition, **fields: Any) -> LLMBatchJobStatus:
    """Return a status as an earlier pass would have left it, ten minutes into the job."""
    known = {
        "observed_generation": 1,
        "started_at": rfc3339(NOW - 600),
        "updated_at": rfc3339(NOW - 60),
        "conditions": tuple(sorted((condition("Accepted", reason="Valid"), *conditions), key=lambda c: c.type)),
        **fields,
    }
    return LLMBatchJobStatus(**known)


def running_status(attempt: int = 1, **fields: Any) -> LLMBatchJobStatus:
    """Return the status of a job whose driver runs."""
    known = {
        "attempt": attempt,
        "attempt_started_at": rfc3339(NOW - 300),
        "ray_cluster_name": "summarise",
        "capacity": CapacityStatus(workers_wanted=4),
        **fields,
    }
    return status(condition("ClusterReady"), condition("Running", reason="DriverRunning"), **known)


def pod(name: str, group: str = "spot", **fields: Any) -> PodObservation:
    """Return a ready pod that is ten minutes old."""
    known = {
        "name": name,
        "group": group,
        "phase": "Running",
        "ready": True,
        "created_at": NOW - 600,
        "node": f"node-of-{name}",
        "address": "10.0.0.1",
        "gpus": 0 if group == "head" else 1,
        **fields,
    }
    return PodObservation(**known)


def cluster(**fields: Any) -> RayClusterObservation:
    """Return a RayCluster of 4 spot workers that is ten minutes old."""
    known = {
        "name": "summarise",
        "uid": "cluster-1",
        "owner": UID,
        "created_at": NOW - 600,
        "head_ready": True,
        "groups": (
            WorkerGroupObservation(name="spot", index=0, replicas=4),
            WorkerGroupObservation(name="on-demand", index=1),
        ),
        **fields,
    }
    return RayClusterObservation(**known)


def ray_job(state: str = "RUNNING", attempt: int = 1, **fields: Any) -> RayJobObservation:
    """Return a submission of the job."""
    return RayJobObservation(submission_id=f"{UID}-{attempt}", state=state, **fields)  # type: ignore[arg-type]


def progress(state: str = "running", attempt: int = 1, **fields: Any) -> Progress:
    """Return the Progress of a job of 100 rows."""
    rows = RowProgress(percentage=40.0, rows_total=100, rows_completed=40, rows_failed=1)
    return Progress.model_validate({"state": state, "attempt": attempt, "rows": rows, **fields})


PODS = (pod("head", "head"), *(pod(f"w{index}") for index in range(4)))


def children(seen: JobObservation) -> tuple[ChildObservation, ...]:
    """Return the children of a job, all there."""
    return tuple(
        ChildObservation(kind=child["kind"], name=child["metadata"]["name"]) for child in build_support(seen, SETTINGS)
    )


def running_snapshot(**fields: Any) -> Snapshot:
    """Return the snapshot of a job that runs well."""
    known = {
        "now": NOW,
        "job": job(status=running_status()),
        "cluster": cluster(),
        "pods": PODS,
        "ray": RayApiObservation(reachable=True, jobs=(ray_job(),)),
        "runtime": RuntimeObservation(progress=progress()),
        "settings": SETTINGS,
        **fields,
    }
    return Snapshot(**{"children": children(known["job"]), **known})
