"""Carrying out a Plan: the actions in their order, the status if it differs, the events if that was written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.capacity import Capacity
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import FIELD_MANAGER, KubeClient, Object
from llmbatch.cluster.head import Head, HeadClient
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.projections import child_of, ray_cluster_of
from llmbatch.core.job.plan import (
    Action,
    CreateChild,
    DeleteRayCluster,
    EmitEvent,
    PatchWorkerGroup,
    SendCapacity,
    StopRayJob,
    SubmitRayJob,
)
from llmbatch.core.job.snapshot import JobObservation
from llmbatch.errors import HeadError, StaleError

TOKEN_BYTES = 32
REPEAT_SECONDS = 60.0
"""A Capacity that does not change is delivered this often: its reader takes it for a desired state."""
REASON_LENGTH, NOTE_LENGTH = 128, 1000
"""Bounds of an Event in bytes (events.k8s.io/v1: reason 128, note 1 kB)."""


class Applier:
    """Writes to the API server and to heads. Each write may be repeated without harm."""

    def __init__(self, kube: KubeClient, heads: HeadClient, instance: str) -> None:
        self._kube, self._heads, self._instance = kube, heads, instance

    async def act(self, action: Action, job: JobObservation, memory: Memory, head: Head | None) -> Progress | None:
        """Carry out one action.

        Args:
            action: What to do.
            job: The job it is for.
            memory: Takes note of what is there now.
            head: Where the head is reached; the actions that need it fail without.

        Returns:
            The runtime's answer to a Capacity that was delivered, else None.

        Raises:
            ForbiddenError, RejectedError: the API server refused.
            StaleError: the object is not what the plan was made for.
            TransientError: the API server or the head did not answer.
        """
        match action:
            case CreateChild():
                await self._create(action, job, memory)
            case PatchWorkerGroup():
                path = paths.single("RayCluster", job.namespace, action.cluster)
                memory.stored = ray_cluster_of(await self._kube.json_patch(path, action.json_patch()))
            case DeleteRayCluster():
                await self._kube.delete(paths.single("RayCluster", job.namespace, action.name), action.uid)
                memory.deleted = action.uid
            case SubmitRayJob():
                await self._heads.submit(_reachable(head), action.submission_id, action.entrypoint)
            case StopRayJob():
                await self._heads.stop(_reachable(head), action.submission_id)
            case SendCapacity():
                return await self._send(action.capacity, job, memory, _reachable(head))
        return None

    async def _send(self, capacity: Capacity, job: JobObservation, memory: Memory, head: Head) -> Progress | None:
        """Deliver a Capacity, unless the same driver took the same one a moment ago."""
        to = memory.head_uid, job.status.attempt
        if memory.delivered is not None:
            *before, last = memory.delivered
            same = capacity.model_copy(update={"sequence": last.sequence}) == last
            if tuple(before) == to and same and capacity.sequence - last.sequence < REPEAT_SECONDS * 1000:
                return None
        progress = await self._heads.send_capacity(head, capacity)
        memory.delivered = *to, capacity
        return progress

    async def write_status(self, body: Mapping[str, Any], status: LLMBatchJobStatus) -> Object:
        """Replace the status of the job, whole, and return the job as it is stored now.

        Args:
            body: The job as it was read: its uid and resourceVersion fence the write.
            status: The new status.

        Raises:
            StaleError: the job changed since it was read, or is gone.
        """
        metadata = body["metadata"]
        document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
            "spec": body["spec"],
            "status": status.to_wire(),
        }
        return await self._kube.replace(
            paths.single(KIND, metadata["namespace"], metadata["name"]) + "/status", document
        )

    async def emit(self, job: JobObservation, event: EmitEvent) -> None:
        """Post an Event on the job.

        Raises:
            LLMBatchError: it was not posted; nothing depends on it.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        reference = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
        }
        body: Object = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{secrets.token_hex(8)}", "namespace": job.namespace},
            "eventTime": now,
            "reportingController": f"{FIELD_MANAGER}.dev/operator",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": event.type,
            "reason": event.reason[:REASON_LENGTH],
            "note": event.message.encode()[:NOTE_LENGTH].decode(errors="ignore"),
            "regarding": reference,
        }
        await self._kube.create(paths.collection("Event", job.namespace), body)

    async def _create(self, action: CreateChild, job: JobObservation, memory: Memory) -> None:
        kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
        body, token = _with_token(action)
        created = await self._kube.create(paths.collection(kind, job.namespace), body)
        if created is not None:
            memory.token = token or memory.token
        there = created or await self._kube.get(paths.single(kind, job.namespace, name))
        if there is None:
            return
        child = child_of(kind, there, job.uid)
        if not child.owned:
            memory.children[(kind, name)] = child
            raise StaleError(f"{kind} {name} belongs to somebody else")
        if kind == "RayCluster":
            memory.cluster_made = True
            memory.children.pop((kind, name), None)
        else:
            memory.children[(kind, name)] = child


def _with_token(action: CreateChild) -> tuple[Object, str | None]:
    if action.random_key is None:
        return action.manifest, None
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return {**action.manifest, "stringData": {action.random_key: token}}, token


def _reachable(head: Head | None) -> Head:
    if head is None:
        raise HeadError("the head's token is not to be had")
    return head
