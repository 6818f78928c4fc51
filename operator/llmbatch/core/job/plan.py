"""Plan: what one pass does, as data.

Order of a pass: the actions in their order, then the status if it differs from the stored one, then the events
if that write succeeded. No action depends on what this pass writes: an attempt or a child name is acted on only
once a stored status holds it, so a crash between any two steps leaves nothing that the next pass does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmbatch.api.base import Document
from llmbatch.api.capacity import Capacity
from llmbatch.api.job import LLMBatchJobStatus

Manifest = dict[str, Any]


class CreateChild(Document):
    """Create one object; that it exists already and is owned by this job counts as success."""

    action: Literal["CreateChild"] = "CreateChild"
    """Which action."""
    manifest: Manifest
    """The whole object, ownerReferences included."""
    random_key: str | None = None
    """For a Secret: the key whose value is a new random token, put in by the writer and never in a Plan."""


class PatchWorkerGroup(Document):
    """Set the size of one worker group, and name the workers that go."""

    action: Literal["PatchWorkerGroup"] = "PatchWorkerGroup"
    """Which action."""
    cluster: str
    """The RayCluster."""
    uid: str
    """Its uid: a namesake is left alone."""
    group: str
    """groupName, tested."""
    index: int
    """Its place in workerGroupSpecs."""
    from_replicas: int
    """The size seen, tested."""
    replicas: int
    """The new size."""
    workers_to_delete: tuple[str, ...] = ()
    """Pods to delete; the rest stay."""
    reason: str = ""
    """Why, in words."""

    def json_patch(self) -> list[dict[str, Any]]:
        """Return the RFC 6902 patch: it applies only to the group and size that were seen.

        The list is atomic for server-side apply, so fields are patched singly (KubeRay's CRD).
        """
        at = f"/spec/workerGroupSpecs/{self.index}"
        return [
            {"op": "test", "path": "/metadata/uid", "value": self.uid},
            {"op": "test", "path": f"{at}/groupName", "value": self.group},
            {"op": "test", "path": f"{at}/replicas", "value": self.from_replicas},
            {"op": "add", "path": f"{at}/replicas", "value": self.replicas},
            {"op": "add", "path": f"{at}/scaleStrategy", "value": {"workersToDelete": list(self.workers_to_delete)}},
        ]


class SubmitRayJob(Document):
    """Submit an attempt; that the head knows the submission id already counts as success."""

    action: Literal["SubmitRayJob"] = "SubmitRayJob"
    """Which action."""
    submission_id: str
    """`<uid>-<attempt>`."""
    entrypoint: str
    """Command line of the driver."""


class StopRayJob(Document):
    """Stop a submission."""

    action: Literal["StopRayJob"] = "StopRayJob"
    """Which action."""
    submission_id: str
    """`<uid>-<attempt>`."""


class SendCapacity(Document):
    """Tell the runtime what it may count on; its answer is the Progress of the next pass."""

    action: Literal["SendCapacity"] = "SendCapacity"
    """Which action."""
    capacity: Capacity
    """The desired state."""


class DeleteRayCluster(Document):
    """Delete the RayCluster, with its uid as precondition; that it is gone counts as success."""

    action: Literal["DeleteRayCluster"] = "DeleteRayCluster"
    """Which action."""
    name: str
    """The RayCluster."""
    uid: str
    """Its uid."""


Action = Annotated[
    CreateChild | PatchWorkerGroup | SubmitRayJob | StopRayJob | SendCapacity | DeleteRayCluster,
    Field(discriminator="action"),
]


class EmitEvent(Document):
    """One Kubernetes Event on the job, posted after the status write that justifies it."""

    type: Literal["Normal", "Warning"]
    """Normal or Warning."""
    reason: str
    """One CamelCase word."""
    message: str
    """One sentence."""


class Plan(Document):
    """What one pass does."""

    actions: tuple[Action, ...] = ()
    """In order."""
    status: LLMBatchJobStatus
    """The whole new status. Equal to the stored one: nothing is written."""
    events: tuple[EmitEvent, ...] = ()
    """Posted if the status was written."""
    requeue_after: float | None = None
    """Seconds until the next pass when nothing wakes the job; None: only an event does."""
    reasons: tuple[str, ...] = ()
    """Why, in words, for `llmbatch explain` and the log."""
