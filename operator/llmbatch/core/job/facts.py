"""What a snapshot says about the present attempt: plain questions, answered once."""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.api.progress import Progress
from llmbatch.core.job.children.names import QUEUE_LABEL, submission_id
from llmbatch.core.job.snapshot import (
    HEAD_GROUP,
    SPOT_GROUP,
    PodObservation,
    RayJobObservation,
    Snapshot,
)
from llmbatch.core.job.times import unix
from llmbatch.core.preemption.notice import Notice, merged

LIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker pod and what the signs on it and on its node mean for it."""

    pod: PodObservation
    """The pod."""
    notice: Notice | None = None
    """Its notice."""
    counted_at: float | None = None
    """When it was counted as on notice, Unix seconds; None: it is not yet."""

    @property
    def doomed(self) -> bool:
        """Whether it will go or has gone; an advisory is no reason to give up a worker."""
        return self.pod.terminating or (self.notice is not None and self.notice.dooms)

    @property
    def ready(self) -> bool:
        """Whether it is there and ready. The pod of a machine that is gone says so for up to a minute more."""
        return self.pod.ready and not (self.notice is not None and self.notice.kind == "lost")

    @property
    def useful(self) -> bool:
        """Whether it takes work and will go on taking it."""
        return self.pod.ready and not self.doomed

    @property
    def coming(self) -> bool:
        """Whether it has a node and starts there."""
        return not self.pod.ready and not self.doomed and self.pod.node is not None

    @property
    def spot(self) -> bool:
        """Whether it runs on spot capacity."""
        return self.pod.group == SPOT_GROUP


def head_pod(snapshot: Snapshot) -> PodObservation | None:
    """Return the head that is to stay, else one that goes, else None."""
    heads = [pod for pod in snapshot.pods if pod.group == HEAD_GROUP]
    return min(heads, key=lambda pod: (pod.terminating, -pod.created_at), default=None)


def head_ready(snapshot: Snapshot) -> bool:
    """Tell whether the head can be talked to, and stays."""
    head, cluster = head_pod(snapshot), snapshot.cluster
    if cluster is None or cluster.deleting or cluster.suspended:
        return False
    return head is not None and head.ready and not head.terminating


def queue(snapshot: Snapshot) -> str:
    """Return the Kueue queue that admits the workers; blank when the operator may resize them as it likes."""
    if snapshot.cluster is not None:
        return snapshot.cluster.queue
    return snapshot.job.labels.get(QUEUE_LABEL, "")


def leaving(snapshot: Snapshot) -> bool:
    """Tell whether the cluster goes as a whole: its workers go along, which is no loss."""
    return snapshot.cluster is not None and snapshot.cluster.deleting


def held_by_queue(snapshot: Snapshot) -> bool:
    """Tell whether a queue holds the cluster back: what ends meanwhile was ended by it."""
    return snapshot.cluster is not None and snapshot.cluster.suspended


def workers(snapshot: Snapshot) -> list[Worker]:
    """Return the worker pods with their notices, by name: what is said of the first one does not waver."""
    on_node = {node.name: node.notice for node in snapshot.nodes if node.notice is not None}
    pods = sorted((pod for pod in snapshot.pods if pod.group != HEAD_GROUP), key=lambda pod: pod.name)
    return [
        Worker(pod, _notice(snapshot, pod, on_node.get(pod.node or "")), _counted_at(snapshot, pod)) for pod in pods
    ]


def workers_to_count(snapshot: Snapshot) -> list[Worker]:
    """Return the workers and those that went before they were counted."""
    return [*workers(snapshot), *(Worker(pod, _last_notice(snapshot, pod)) for pod in snapshot.vanished)]


def _last_notice(snapshot: Snapshot, pod: PodObservation) -> Notice:
    notice = _notice(snapshot, pod, None)
    return notice if notice is not None and notice.dooms else Notice(kind="lost", source="pod gone")


def _notice(snapshot: Snapshot, pod: PodObservation, on_node: Notice | None) -> Notice | None:
    notice = merged((pod.notice, on_node))
    if notice is None:
        return None
    first_seen = _counted_at(snapshot, pod)
    return notice.seen(snapshot.now if first_seen is None else first_seen, spot=pod.group == SPOT_GROUP)


def _counted_at(snapshot: Snapshot, pod: PodObservation) -> float | None:
    preemptions = snapshot.job.status.preemptions
    return unix(preemptions.counted.get(pod.name)) if preemptions else None


def works(snapshot: Snapshot) -> bool:
    """Tell whether the head and some worker do their work: what is wrong then is a lack, and holds up no more."""
    return head_ready(snapshot) and any(worker.useful for worker in workers(snapshot))


def shrinking(snapshot: Snapshot) -> frozenset[str]:
    """Return the workers that KubeRay was told to delete: their end is our own doing."""
    groups = snapshot.cluster.groups if snapshot.cluster else ()
    return frozenset(name for group in groups for name in group.workers_to_delete)


def present_job(snapshot: Snapshot) -> RayJobObservation | None:
    """Return the submission of the stored attempt, if the head knows it."""
    job = snapshot.job
    if job.status.attempt is None:
        return None
    wanted = submission_id(job.uid, job.status.attempt)
    return next((seen for seen in snapshot.ray.jobs if seen.submission_id == wanted), None)


def other_live_jobs(snapshot: Snapshot) -> list[RayJobObservation]:
    """Return submissions of other attempts that have not ended."""
    present = present_job(snapshot)
    return [seen for seen in snapshot.ray.jobs if seen is not present and seen.state in LIVE]


def driver_lives(snapshot: Snapshot) -> bool:
    """Tell whether the present attempt's driver is known to run or to be about to."""
    present = present_job(snapshot)
    return snapshot.ray.reachable and present is not None and present.state in LIVE


def present_progress(snapshot: Snapshot) -> Progress | None:
    """Return the Progress of the present attempt: the endpoint's, else the last line of its log."""
    present = present_job(snapshot)
    for progress in (snapshot.runtime.progress, present.final_progress if present else None):
        if progress is not None and progress.attempt == snapshot.job.status.attempt:
            return progress
    return None


def ray_silent_seconds(snapshot: Snapshot) -> float:
    """Return how long a head that is ready has not answered the Jobs API, in seconds."""
    head, since = head_pod(snapshot), snapshot.ray.unreachable_since
    if snapshot.ray.reachable or since is None or head is None or not head_ready(snapshot):
        return 0.0
    return max(0.0, snapshot.now - max(since, head.created_at))
