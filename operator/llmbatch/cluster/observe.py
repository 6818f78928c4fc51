"""From the watched objects, the API server and the head to one Snapshot."""

from __future__ import annotations

import asyncio
import base64
import binascii
import zlib
from collections.abc import Awaitable, Iterable
from typing import Protocol, TypeVar

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient
from llmbatch.cluster.head import Head, HeadClient
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.projections import ClusterPod, child_of, of_job, ray_cluster_of
from llmbatch.core.job.children import build_support
from llmbatch.core.job.children.names import child_name, submission_id
from llmbatch.core.job.children.pods import TOKEN_KEY, secret_names
from llmbatch.core.job.facts import LIVE, head_pod, head_ready
from llmbatch.core.job.roster import call_roll, leave_untold
from llmbatch.core.job.running import BLOCKED_SECONDS
from llmbatch.core.job.snapshot import (
    HEAD_GROUP,
    ChildObservation,
    JobObservation,
    NodeObservation,
    Notice,
    OperatorSettings,
    PodObservation,
    RayApiObservation,
    RayClusterObservation,
    RayJobObservation,
    RuntimeObservation,
    Snapshot,
)
from llmbatch.errors import ForbiddenError, HeadError, HeadTokenError

Answer = TypeVar("Answer")

CHILDREN_SECONDS = 300.0
"""How long a child that was seen is taken to be there: nobody but the garbage collector should remove one. The first
reads, after a restart too, come job by job within that time.
"""
SECRETS_SECONDS = 300.0
"""How long a user's Secret that was seen is taken to be there. A missing one is looked for in every pass."""
LOG_TRIES = 5
"""A driver's log that cannot be read this often says nothing: the next attempt finds out from the ledger."""


class Watched(Protocol):
    """The objects that a watch keeps at hand."""

    def ray_cluster(self, namespace: str, name: str) -> RayClusterObservation | None:
        """Return a RayCluster that bears llmbatch's labels."""

    def pods(self, namespace: str, cluster: str) -> Iterable[ClusterPod]:
        """Return the pods of a RayCluster of that name, whichever uid it had."""

    @property
    def nodes_watched(self) -> bool:
        """Whether nodes are watched at all: an operator of one namespace may have no right to."""

    def node(self, name: str) -> NodeObservation | None:
        """Return a node; one that the watch does not know is None."""

    async def kuberay_installed(self) -> bool:
        """Tell whether the API server serves RayCluster of ray.io/v1.

        Raises:
            ForbiddenError: the operator may not ask.
        """


class Observer:
    """Takes Snapshots. A read that fails raises: what could not be read is never taken to be gone."""

    def __init__(self, kube: KubeClient, heads: HeadClient, watched: Watched, settings: OperatorSettings) -> None:
        self._kube, self._heads, self._watched, self._settings = kube, heads, watched, settings

    async def observe(self, job: JobObservation, memory: Memory, now: float) -> Snapshot:
        """Return everything one pass knows of a job.

        Raises:
            ApiServerError: the API server did not answer.
        """
        snapshot = Snapshot(now=now, job=job, settings=self._settings)
        if job.deleting:
            return snapshot
        cluster = await self._ray_cluster(job, memory)
        pods = self._pods(job, cluster)
        counted = job.status.preemptions.counted if job.status.preemptions else ()
        if cluster is not None and cluster.queue and leave_untold(memory.roster, cluster, pods, counted):
            # A queue takes back the whole cluster, and the watch of the pods may be ahead of the one that says so.
            stored = await self._stored_cluster(job, cluster.name)
            if stored is None:
                memory.deleted = cluster.uid
            else:
                memory.stored = stored
            cluster = stored
        memory.roster = call_roll(memory.roster, cluster, pods, counted)
        seen = {"cluster": cluster, "pods": pods, "vanished": memory.roster.vanished, "nodes": await self._nodes(pods)}
        snapshot = snapshot.model_copy(update=seen)
        if not _finished(job) and job.spec is not None and job.status.attempt is not None:
            await self._look_for_children(job, memory, cluster is not None, now)
            await self._look_for_secrets(job, job.spec, memory, now)
        ray, runtime = await self._ask_head(snapshot, memory)
        facts = memory.facts(kuberay_installed=await self._kuberay_installed(memory))
        update = {"children": tuple(memory.children.values()), "ray": ray, "runtime": runtime, "facts": facts}
        return snapshot.model_copy(update=update)

    async def head_of(self, snapshot: Snapshot, memory: Memory) -> Head | None:
        """Return where the head is reached; None while it is not ready or its token is not to be had."""
        pod = head_pod(snapshot)
        if pod is None or pod.address is None or not head_ready(snapshot):
            return None
        memory.head_is(pod.uid)
        if memory.token is None:
            memory.token = await self._token(snapshot.job, memory)
        return None if memory.token is None else Head(pod.address, memory.token)

    async def _kuberay_installed(self, memory: Memory) -> bool:
        """Ask for KubeRay. Where that is refused it may be there: the refusal is what the job's status tells."""
        installed = await _unless_forbidden("discover RayCluster", self._watched.kuberay_installed(), memory)
        return installed is None or installed

    async def _ray_cluster(self, job: JobObservation, memory: Memory) -> RayClusterObservation | None:
        name = job.status.ray_cluster_name
        if name is None:
            return None
        watched = memory.latest(self._watched.ray_cluster(job.namespace, name))
        seen = None if watched is None else of_job(watched, job.uid)
        made = memory.cluster_made or job.status.attempt_started_at is not None
        if seen is not None or not made or _finished(job):
            return seen
        # That its cluster is gone ends an attempt or a pause: the watch alone is not asked, it may lag or be refused.
        return await self._stored_cluster(job, name)

    async def _stored_cluster(self, job: JobObservation, name: str) -> RayClusterObservation | None:
        body = await self._kube.get(paths.single("RayCluster", job.namespace, name))
        return None if body is None else of_job(ray_cluster_of(body), job.uid)

    def _pods(self, job: JobObservation, cluster: RayClusterObservation | None) -> tuple[PodObservation, ...]:
        if cluster is None:
            return ()
        found = self._watched.pods(job.namespace, cluster.name)
        pods = [item.pod for item in found if item.cluster_uid == cluster.uid]
        return tuple(sorted(pods, key=lambda pod: (pod.group != HEAD_GROUP, pod.name)))

    async def _nodes(self, pods: Iterable[PodObservation]) -> tuple[NodeObservation, ...]:
        if not self._watched.nodes_watched:
            return ()
        names = sorted({pod.node for pod in pods if pod.node})
        return tuple([self._watched.node(name) or await self._unknown_node(name) for name in names])

    async def _unknown_node(self, name: str) -> NodeObservation:
        """Ask for a node that the watch does not know: a watch that is refused or lags must not doom a worker."""
        try:
            there = await self._kube.get(f"/api/v1/nodes/{name}") is not None
        except ForbiddenError:
            there = True
        return NodeObservation(name=name) if there else _gone(name)

    async def _look_for_children(self, job: JobObservation, memory: Memory, running: bool, now: float) -> None:
        """Read the children of a RayCluster from time to time, and those of somebody else in every pass.

        They are created before the RayCluster: where that is there, they were. So a restart reads them bit by bit. What
        may not be read is asked for again as soon as a job is looked at that waits for something.
        """
        keys = [key for key, child in memory.children.items() if not child.owned]
        due = memory.children_due_at
        if running and (due is None or now >= due):
            support = [(child["kind"], child["metadata"]["name"]) for child in build_support(job, self._settings)]
            memory.children_due_at = now + (_spread(job.uid) if due is None else CHILDREN_SECONDS)
            if due is not None:
                keys = [*support, *keys]
            for kind, name in support:
                memory.children.setdefault((kind, name), ChildObservation(kind=kind, name=name))
        for kind, name in keys:
            body = await self._read(kind, job.namespace, name, memory)
            if _reading(kind, name) in memory.forbidden:
                # What was seen last still holds. A refusal is told until the same question is answered.
                memory.children_due_at = now + BLOCKED_SECONDS
                continue
            child = None if body is None else child_of(kind, body, job.uid)
            if child is None or (child.owned and kind == "RayCluster"):
                memory.children.pop((kind, name), None)
            else:
                memory.children[(kind, name)] = child

    async def _look_for_secrets(self, job: JobObservation, spec: LLMBatchJobSpec, memory: Memory, now: float) -> None:
        names = secret_names(spec)
        fresh = memory.secrets_read_at is not None and now - memory.secrets_read_at < SECRETS_SECONDS
        if not names or (fresh and not memory.missing_secrets):
            return
        found = [name for name in names if await self._read("Secret", job.namespace, name, memory) is not None]
        memory.missing_secrets = tuple(name for name in names if name not in found)
        memory.secrets_read_at = now

    async def _read(self, kind: str, namespace: str, name: str, memory: Memory) -> dict[str, object] | None:
        question = self._kube.get(paths.single(kind, namespace, name))
        return await _unless_forbidden(_reading(kind, name), question, memory)

    async def _token(self, job: JobObservation, memory: Memory) -> str | None:
        body = await self._read("Secret", job.namespace, child_name(job.name, "token"), memory)
        data = (body or {}).get("data") or {}
        try:
            encoded = data[TOKEN_KEY]  # type: ignore[index]
            return base64.b64decode(encoded, validate=True).decode()
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
            return None

    async def _ask_head(self, snapshot: Snapshot, memory: Memory) -> tuple[RayApiObservation, RuntimeObservation]:
        head = await self.head_of(snapshot, memory)
        if head is None:
            return RayApiObservation(), RuntimeObservation()
        uid, attempt = snapshot.job.uid, snapshot.job.status.attempt
        present = "" if attempt is None else submission_id(uid, attempt)
        answer = asyncio.ensure_future(self._progress(head))
        try:
            jobs = await self._heads.list_jobs(head, f"{uid}-")
        except HeadError as error:
            answer.cancel()
            if isinstance(error, HeadTokenError):
                memory.token = None
            memory.head_silent_since = memory.head_silent_since or snapshot.now
            return RayApiObservation(unreachable_since=memory.head_silent_since), RuntimeObservation()
        memory.head_silent_since = None
        jobs = tuple(
            [await self._with_final(head, job, memory) if job.submission_id == present else job for job in jobs]
        )
        state = next((job.state for job in jobs if job.submission_id == present), None)
        return RayApiObservation(reachable=True, jobs=jobs), await self._runtime(answer, state, memory, snapshot.now)

    async def _progress(self, head: Head) -> Progress | HeadError:
        try:
            return await self._heads.progress(head)
        except HeadError as error:
            return error

    async def _runtime(
        self, answer: asyncio.Future[Progress | HeadError], state: str | None, memory: Memory, now: float
    ) -> RuntimeObservation:
        """Take the endpoint's answer only of a driver that lives: an earlier one may linger on the port."""
        progress = await answer
        if state not in LIVE:
            memory.driver_silent_since = None
            return RuntimeObservation()
        if isinstance(progress, HeadError):
            memory.driver_silent_since = memory.driver_silent_since or now
            return RuntimeObservation(unreachable_since=memory.driver_silent_since)
        memory.driver_silent_since = None
        return RuntimeObservation(progress=progress)

    async def _with_final(self, head: Head, job: RayJobObservation, memory: Memory) -> RayJobObservation:
        if job.state in LIVE:
            return job
        if job.submission_id not in memory.final:
            try:
                memory.final = {job.submission_id: await self._heads.final_progress(head, job.submission_id)}
            except HeadError:
                memory.log_tries += 1
                if memory.log_tries < LOG_TRIES:
                    raise
                memory.final = {job.submission_id: None}
            memory.log_tries = 0
        return job.model_copy(update={"final_progress": memory.final[job.submission_id]})


async def _unless_forbidden(what: str, question: Awaitable[Answer], memory: Memory) -> Answer | None:
    """Await an answer; None where it is refused, which the memory keeps until the same question is answered."""
    try:
        answer = await question
    except ForbiddenError as error:
        memory.forbidden[what] = str(error)
        return None
    memory.forbidden.pop(what, None)
    return answer


def _reading(kind: str, name: str) -> str:
    return f"get {kind} {name}"


def _spread(uid: str) -> float:
    return zlib.crc32(uid.encode()) % CHILDREN_SECONDS


def _finished(job: JobObservation) -> bool:
    return any(
        condition.type in ("Complete", "Failed") and condition.status == "True" for condition in job.status.conditions
    )


def _gone(name: str) -> NodeObservation:
    notice = Notice(kind="lost", source="node deleted")
    return NodeObservation(name=name, exists=False, ready=False, notice=notice)
