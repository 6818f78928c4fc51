"""Snapshot: everything one pass knows of a job, as data.

The observer fills it, `decide()` reads it, `llmbatch explain` prints what follows from a saved one. Times are Unix
seconds, durations seconds. Secrets are never in it, only whether they exist.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmbatch.api.base import Document
from llmbatch.api.job import LLMBatchJobSpec, LLMBatchJobStatus, Quantity
from llmbatch.api.progress import Progress
from llmbatch.core.job.peers import NetworkPeer
from llmbatch.core.preemption.notice import Notice as Notice  # part of a Snapshot: importable from here
from llmbatch.core.preemption.signals import Signal

HEAD_GROUP = "head"
SPOT_GROUP = "spot"
ON_DEMAND_GROUP = "on-demand"
GroupName = Literal["head", "spot", "on-demand"]

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
RayJobState = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


class JobObservation(Document):
    """The custom resource as it was read."""

    name: str
    """Name of the job."""
    namespace: str
    """Namespace of the job."""
    uid: str
    """The job's uid."""
    generation: int = 1
    """Grows with every change of the spec."""
    labels: dict[str, str] = {}
    """The job's labels."""
    created_at: float = 0.0
    """When the API server accepted it."""
    deleting: bool = False
    """Whether its deletion was requested."""
    spec: LLMBatchJobSpec | None = None
    """The spec; None when it is not valid."""
    spec_error: str = ""
    """Why the spec is not valid: field, value, what is allowed."""
    status: LLMBatchJobStatus = LLMBatchJobStatus()
    """The status as last written."""


class NodeObservation(Document):
    """A node that runs, or ran, a pod of the job."""

    name: str
    """The node."""
    exists: bool = True
    """Whether the Node object is there."""
    ready: bool = True
    """Its Ready condition."""
    notice: Notice | None = None
    """What follows from the signs on it."""


class PodObservation(Document):
    """A pod of the job's RayCluster."""

    name: str
    """The pod."""
    uid: str = ""
    """The pod's uid."""
    group: GroupName
    """head, or its worker group."""
    phase: PodPhase = "Pending"
    """The pod's phase."""
    ready: bool = False
    """Its Ready condition."""
    unready_since: float | None = None
    """Since when its node's kubelet has said that it is not ready, Unix seconds."""
    unprepared_since: float | None = None
    """Of a head: since when the kubelet has said that its volumes or its network are not there."""
    created_at: float = 0.0
    """When it was created."""
    terminating: bool = False
    """Whether it has a deletion timestamp."""
    node: str | None = None
    """The node it is bound to."""
    address: str | None = None
    """Its IP."""
    gpus: int = 0
    """GPUs it asks for."""
    unschedulable: str = ""
    """The scheduler's message while no node takes it."""
    waiting_reason: str = ""
    """Why a container waits, such as ImagePullBackOff or CreateContainerConfigError."""
    waiting_message: str = ""
    """What the kubelet says to that."""
    restarts: int = 0
    """Restarts of its Ray container."""
    notice: Notice | None = None
    """What follows from the signs on the pod itself (DisruptionTarget, deletion, phase Failed)."""


class WorkerGroupObservation(Document):
    """One entry of the RayCluster's workerGroupSpecs."""

    name: str
    """spot or on-demand."""
    index: int
    """Its place in the list, for a JSON patch."""
    replicas: int = 0
    """Workers asked for."""
    workers_to_delete: tuple[str, ...] = ()
    """Pods that KubeRay was told to delete."""


class RayClusterObservation(Document):
    """The RayCluster that the status names."""

    name: str
    """Its name."""
    uid: str
    """Its uid."""
    resource_version: str = ""
    """Its resourceVersion."""
    owner: str = ""
    """uid of the job that controls it; blank: no job does."""
    owned: bool = True
    """Whether that is this job."""
    deleting: bool = False
    """Whether it has a deletion timestamp."""
    suspended: bool = False
    """Whether its spec or its conditions say suspended (Kueue does that)."""
    queue: str = ""
    """The Kueue queue that admits it: its label, which Kueue's defaulting may have set."""
    pods_from: str = ""
    """Stands for the job's fields that its pods were made from; blank: an earlier version of the operator made it."""
    created_at: float = 0.0
    """When it was created."""
    head_ready: bool = False
    """KubeRay's condition HeadPodReady."""
    failure: str = ""
    """Message of KubeRay's condition ReplicaFailure, or of its refusal to reconcile."""
    groups: tuple[WorkerGroupObservation, ...] = ()
    """The worker groups, in order."""


class RayJobObservation(Document):
    """One submission that the head knows, by Ray's Jobs API."""

    submission_id: str
    """`<uid>-<attempt>`."""
    state: RayJobState
    """As Ray names it."""
    message: str = ""
    """Ray's message."""
    exit_code: int | None = None
    """Exit code of the driver, once it ended: 0 complete or paused, 1 failed by policy, 2 user error, 3 internal."""
    final_progress: Progress | None = None
    """From the last line of its log, once it ended."""


class RayApiObservation(Document):
    """What the head's Jobs API answered."""

    reachable: bool = False
    """Whether it answered in this pass."""
    unreachable_since: float | None = None
    """Since when it has not answered."""
    jobs: tuple[RayJobObservation, ...] = ()
    """Every submission of this job that the head knows."""


class RuntimeObservation(Document):
    """What the driver's control endpoint answered."""

    progress: Progress | None = None
    """Its Progress; None when it did not answer or nothing runs."""
    unreachable_since: float | None = None
    """Since when it has not answered."""


class ChildObservation(Document):
    """An object that bears the name of a child."""

    kind: str
    """Secret, ConfigMap, ServiceAccount, NetworkPolicy, PodDisruptionBudget or RayCluster."""
    name: str
    """Its name."""
    owned: bool = True
    """Whether this job's uid is its controller."""
    deleting: bool = False
    """Whether it goes: by a deletion timestamp, or with an earlier job of this name."""


class ClusterFacts(Document):
    """What holds for the Kubernetes cluster and the operator's rights in it."""

    kuberay_installed: bool = True
    """Whether the API server serves RayCluster of ray.io/v1."""
    forbidden: tuple[str, ...] = ()
    """Messages of requests for this job that the API server refused with 403, until they succeed."""
    rejected: tuple[str, ...] = ()
    """Messages of writes that the API server refused as invalid (422), until they are accepted."""
    unserved: tuple[str, ...] = ()
    """Messages of writes that the API server could not carry out, until it can."""
    unserved_since: float | None = None
    """Since when it cannot."""
    missing_secrets: tuple[str, ...] = ()
    """Secrets named by the spec that do not exist."""


class OperatorSettings(Document):
    """What the operator's deployment decides for every job."""

    image: str = "ghcr.io/llmbatch/runtime:latest"
    """Runtime image of jobs that name none."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """As in a pod; left out, Kubernetes decides by the tag."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets of the job's namespace for the image registry."""
    gpu_resource: str = "nvidia.com/gpu"
    """The extended resource that counts GPUs."""
    head_cpu: Quantity = "2"
    """CPU request of the head."""
    head_memory: Quantity = "8Gi"
    """Memory request and limit of the head."""
    worker_cpu: Quantity = "4"
    """CPU request of a worker; at least what the replicas on it reserve, and a core for reading and committing."""
    worker_memory: Quantity = "16Gi"
    """Memory request and limit of a worker."""
    head_node_selector: dict[str, str] = {}
    """Labels of the nodes for heads; left out, the job's on-demand labels."""
    head_tolerations: tuple[dict[str, Any], ...] = ()
    """Tolerations of heads, besides the job's on-demand ones."""
    object_store_bytes: Annotated[int, Field(ge=100_000_000)] | None = None
    """Ray's object store on each pod; left out, Ray takes 30 % of the pod's memory."""
    priority_class: str | None = None
    """PriorityClass of the head."""
    grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 25
    """terminationGracePeriodSeconds of a worker: the shortest notice among the clouds less a margin."""
    signals: Annotated[tuple[Signal, ...], Field(max_length=256)] = ()
    """Signs of preemption besides the built-in ones; one of the same name replaces it."""
    operator_namespace: str = "llmbatch-system"
    """Namespace that may reach the Jobs API and the control endpoint."""
    network_policy: bool = True
    """Whether each job gets a NetworkPolicy."""
    head_from: tuple[NetworkPeer, ...] = ()
    """Who else may reach heads, as `from` of a NetworkPolicy, such as the API server for `watch` and `logs`."""
    ray_metrics_from: tuple[NetworkPeer, ...] = ()
    """Who may read Ray's metrics on each pod, as `from` of a NetworkPolicy, such as Prometheus."""
    status_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time that written progress lags while nothing else changes; in a young job it is 30 s."""


class Snapshot(Document):
    """Everything one pass knows."""

    now: float
    """When it was taken."""
    job: JobObservation
    """The custom resource."""
    cluster: RayClusterObservation | None = None
    """The RayCluster named in the status; None when there is none."""
    pods: tuple[PodObservation, ...] = ()
    """Pods of that RayCluster, head first."""
    vanished: tuple[PodObservation, ...] = ()
    """Workers of it that went and are not counted yet, as they were last seen."""
    nodes: tuple[NodeObservation, ...] = ()
    """The nodes those pods are bound to."""
    children: tuple[ChildObservation, ...] = ()
    """Objects that bear the names of children, RayCluster excepted."""
    ray: RayApiObservation = RayApiObservation()
    """The head's Jobs API."""
    runtime: RuntimeObservation = RuntimeObservation()
    """The driver's control endpoint."""
    facts: ClusterFacts = ClusterFacts()
    """The Kubernetes cluster."""
    settings: OperatorSettings = OperatorSettings()
    """The operator's settings."""
