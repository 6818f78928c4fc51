"""The signs that a node or a pod will go, as data: one row a sign, and what it means.

Every key stands in the source or the manual of the component that sets it. An operator adds rows, or changes a row by
giving another one the same name. A loss without any sign is survived all the same: it costs the work in flight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from llmbatch.api.base import Document
from llmbatch.api.job import ShortText

NoticeKind = Literal["advisory", "draining", "reclaim", "lost"]
Place = Literal[
    "nodeTaint", "nodeCondition", "nodeLabel", "nodeCordon", "nodeDeletion", "podCondition", "podDeletion", "podFailure"
]
Loss = Literal["preemption", "failure"]

_KEYED = ("nodeTaint", "nodeCondition", "nodeLabel", "podCondition")
"""Places where several signs lie, each under a key."""


class Signal(Document):
    """One sign, and what it means for the worker."""

    # The same rule as `_complete`, for the schema of the Helm chart's values.
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"place": {"enum": list(_KEYED)}}},
            "then": {"required": ["key"]},
            "else": {"properties": {"key": {"const": ""}}},
        }
    )

    name: ShortText
    """Unique. It stands in the status as the source of a preemption."""
    place: Place
    """Where it is looked for."""
    key: str = ""
    """Key of the taint or label, or type of the condition; the other places have none."""
    value: str | None = None
    """Value of the taint or label, or reason of the condition or failure; left out, any."""
    status: Literal["True", "False"] = "True"
    """Status of the condition."""
    message: str = ""
    """Regular expression that the message of the condition must contain."""
    kind: NoticeKind
    """advisory (may go; nothing is drained), draining (asked to leave), reclaim (killed at the deadline) or lost."""
    lead_seconds: Annotated[float, Field(ge=0, le=31_536_000)] | None = None
    """Shortest time from the sign to the kill, where the object has no date of it; 0: it is under way."""
    spot_only: bool = False
    """Whether it means anything on spot capacity only; elsewhere it is an advisory."""
    loss: Loss = "preemption"
    """Which budget a worker lost to it counts against."""
    set_by: str = "the operator's settings"
    """Who sets it, for the manual."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        keyed = self.place in _KEYED
        if keyed != bool(self.key):
            raise ValueError(f"key is {'required' if keyed else 'not allowed'} with place {self.place}")
        try:
            re.compile(self.message)
        except re.error as error:
            raise ValueError(f"message must be a regular expression, got {self.message!r}: {error}") from error
        return self


_NTH = "AWS node termination handler with `taintNode`"
_AKS = "AKS node problem detector"
_CORE = "Kubernetes"

SIGNALS: tuple[Signal, ...] = (
    # AWS: pkg/node/node.go of aws-node-termination-handler; a spot instance has 120 s.
    Signal(
        name="aws-node-termination-handler/spot-itn",
        place="nodeTaint",
        key="aws-node-termination-handler/spot-itn",
        kind="reclaim",
        lead_seconds=120,
        set_by=_NTH,
    ),
    Signal(
        name="aws-node-termination-handler/rebalance-recommendation",
        place="nodeTaint",
        key="aws-node-termination-handler/rebalance-recommendation",
        kind="advisory",
        set_by=_NTH,
    ),
    Signal(
        name="aws-node-termination-handler/scheduled-maintenance",
        place="nodeTaint",
        key="aws-node-termination-handler/scheduled-maintenance",
        kind="draining",
        set_by=_NTH,
    ),
    Signal(
        name="aws-node-termination-handler/asg-lifecycle-termination",
        place="nodeTaint",
        key="aws-node-termination-handler/asg-lifecycle-termination",
        kind="draining",
        set_by=_NTH,
    ),
    # Karpenter: pkg/apis/v1/taints.go. One taint for spot, consolidation and drift; the deletion of the pod follows.
    Signal(
        name="karpenter.sh/disrupted",
        place="nodeTaint",
        key="karpenter.sh/disrupted",
        kind="draining",
        set_by="Karpenter",
    ),
    Signal(
        name="karpenter.sh/disruption",
        place="nodeTaint",
        key="karpenter.sh/disruption",
        value="disrupting",
        kind="draining",
        set_by="Karpenter before 1.0",
    ),
    # GKE: of the 30 s of a spot node, 15 belong to the system pods; longer ones are configured (GKE, Spot VMs).
    Signal(
        name="cloud.google.com/impending-node-termination",
        place="nodeTaint",
        key="cloud.google.com/impending-node-termination",
        kind="reclaim",
        lead_seconds=15,
        set_by="GKE",
    ),
    Signal(
        name="cloud.google.com/active-node-maintenance",
        place="nodeLabel",
        key="cloud.google.com/active-node-maintenance",
        value="ONGOING",
        kind="advisory",
        set_by="GKE",
    ),
    # The kubelet's graceful node shutdown: pkg/kubelet/nodeshutdown. With GKE's defaults, 15 s for our pods.
    Signal(
        name="node shutdown",
        place="nodeCondition",
        key="Ready",
        status="False",
        message=r"\bnode is shutting down\b",
        kind="reclaim",
        lead_seconds=15,
        set_by="kubelet",
    ),
    # AKS: interruption/notice.go of karpenter-provider-azure. One type and one reason for three meanings: the message
    # alone tells them apart. A message that is none of them proves nothing.
    Signal(
        name="PreemptionScheduled",
        place="nodeCondition",
        key="PreemptionScheduled",
        message=r"^Preempt Scheduled:",
        kind="reclaim",
        lead_seconds=30,
        set_by=_AKS,
    ),
    Signal(
        name="PreemptionScheduled: started",
        place="nodeCondition",
        key="PreemptionScheduled",
        message=r"^Preempt Started[:.]",
        kind="reclaim",
        lead_seconds=0,
        set_by=_AKS,
    ),
    Signal(
        name="PreemptionScheduled: advisory",
        place="nodeCondition",
        key="PreemptionScheduled",
        kind="advisory",
        set_by=_AKS,
    ),
    Signal(
        name="VMEventScheduled",
        place="nodeCondition",
        key="VMEventScheduled",
        kind="advisory",
        set_by=_AKS,
    ),
    Signal(
        name="remediator.kubernetes.azure.com/unschedulable",
        place="nodeTaint",
        key="remediator.kubernetes.azure.com/unschedulable",
        kind="draining",
        set_by="AKS auto-drain",
    ),
    Signal(
        name="remediator.aks.microsoft.com/unschedulable",
        place="nodeTaint",
        key="remediator.aks.microsoft.com/unschedulable",
        kind="draining",
        set_by="AKS auto-drain, older",
    ),
    # OKE: cloudprovider/oci of the cluster autoscaler.
    Signal(
        name="oke-impending-node-termination",
        place="nodeTaint",
        key="ignore-taint.cluster-autoscaler.kubernetes.io/oke-impending-node-termination",
        kind="draining",
        set_by="OKE",
    ),
    # Cluster autoscaler: utils/taints. The candidate is taken back as often as not.
    Signal(
        name="ToBeDeletedByClusterAutoscaler",
        place="nodeTaint",
        key="ToBeDeletedByClusterAutoscaler",
        kind="draining",
        set_by="cluster autoscaler",
    ),
    Signal(
        name="DeletionCandidateOfClusterAutoscaler",
        place="nodeTaint",
        key="DeletionCandidateOfClusterAutoscaler",
        kind="advisory",
        set_by="cluster autoscaler",
    ),
    # Kubernetes: k8s.io/api/core/v1/well_known_taints.go and the node object itself.
    Signal(
        name="node cordoned",
        place="nodeCordon",
        kind="draining",
        spot_only=True,
        set_by="`kubectl cordon`, every drain, NTH by default, OKE",
    ),
    Signal(name="node being deleted", place="nodeDeletion", kind="draining", set_by="Karpenter, through its finalizer"),
    Signal(name="node not ready", place="nodeTaint", key="node.kubernetes.io/not-ready", kind="advisory", set_by=_CORE),
    Signal(name="node unreachable", place="nodeTaint", key="node.kubernetes.io/unreachable", kind="lost", set_by=_CORE),
    Signal(
        name="node out of service",
        place="nodeTaint",
        key="node.kubernetes.io/out-of-service",
        kind="lost",
        set_by="NTH with `enableOutOfServiceTaint`, people",
    ),
    Signal(
        name="node shut down",
        place="nodeTaint",
        key="node.cloudprovider.kubernetes.io/shutdown",
        kind="lost",
        set_by="cloud controller manager",
    ),
    # Pods: k8s.io/api/core/v1 and its controllers. The deletion timestamp is the exact time of the kill.
    Signal(
        name="DisruptionTarget",
        place="podCondition",
        key="DisruptionTarget",
        kind="reclaim",
        set_by="scheduler, eviction API, taint manager, kubelet",
    ),
    Signal(
        name="DisruptionTarget: pod garbage",
        place="podCondition",
        key="DisruptionTarget",
        value="DeletionByPodGC",
        kind="lost",
        set_by="pod garbage collector: the node is gone",
    ),
    Signal(name="pod deleted", place="podDeletion", kind="reclaim", set_by="whoever deletes or evicts the pod"),
    Signal(
        name="pod ended by the node's shutdown", place="podFailure", value="Terminated", kind="lost", set_by="kubelet"
    ),
    Signal(
        name="pod refused by the node's shutdown",
        place="podFailure",
        value="NodeShutdown",
        kind="lost",
        set_by="kubelet",
    ),
    Signal(name="pod evicted", place="podFailure", value="Evicted", kind="lost", set_by="kubelet under pressure"),
    Signal(
        name="pod preempted", place="podFailure", value="Preempting", kind="lost", set_by="kubelet, for a critical pod"
    ),
    Signal(name="pod failed", place="podFailure", kind="lost", loss="failure", set_by="kubelet: it ended by itself"),
)
"""The built-in rows. That a Node object is gone is the one sign no row can bear: the observer tells it."""


def signal_table(added: Sequence[Signal] = ()) -> tuple[Signal, ...]:
    """Return the built-in rows and the added ones; an added row replaces the built-in one of its name."""
    rows = {signal.name: signal for signal in (*SIGNALS, *added)}
    return tuple(rows.values())
