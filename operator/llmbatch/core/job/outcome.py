"""How the present attempt stands: it goes on, or it ended, and what that means for the job.

An attempt ends as a failure, bounded by `failurePolicy.backoffLimit`, or as an interruption, unbounded: the head's
pod was replaced, so its machine was taken or drained. A job is complete only when a Progress says so. A driver that
ended without saying how is resumed: the next attempt reads the ledger and does what is left, if anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbatch.api.progress import Progress
from llmbatch.core.job.facts import (
    LIVE,
    head_pod,
    held_by_queue,
    present_job,
    present_progress,
    ray_silent_seconds,
)
from llmbatch.core.job.snapshot import RayJobObservation, Snapshot
from llmbatch.core.job.times import unix
from llmbatch.errors import JobFailedError, UserError

Kind = Literal["ongoing", "complete", "paused", "refused", "failed", "interrupted", "hung"]

HUNG_SECONDS = 600.0
"""A head that is ready and silent this long is replaced. Ray's own health checks need about 15 s (measured)."""
FIRST_BACKOFF_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 360.0
"""As Kubernetes' Job controller: 10 s, doubled with each failure, at most 6 minutes."""
USER_ERROR_EXIT, POLICY_EXIT = 2, 1
"""The runtime's exit codes. Without a Progress, 1 proves nothing: Python ends a crash with it too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt stands."""

    kind: Kind
    """ongoing; complete; paused; refused (no retry can help); failed, interrupted or hung (the next one resumes)."""
    reason: str = ""
    """One CamelCase word."""
    message: str = ""
    """One sentence."""


ONGOING = Outcome("ongoing")


def _error_names(root: type[Exception]) -> frozenset[str]:
    return frozenset({root.__name__}).union(*(_error_names(kind) for kind in root.__subclasses__()))


FINAL_ERRORS = _error_names(UserError) | _error_names(JobFailedError)
"""Errors that every further attempt would meet again."""


def outcome(snapshot: Snapshot) -> Outcome:
    """Return how the stored attempt stands in a snapshot."""
    if snapshot.job.status.attempt is None:
        return ONGOING
    present = present_job(snapshot)
    ended = _of_progress(present_progress(snapshot), present)
    if ended is None and present is not None:
        ended = _of_submission(present)
    if ended is not None and ended.kind == "failed" and held_by_queue(snapshot):
        ended = None
    return ended or _lost(snapshot, present) or ONGOING


def backoff_seconds(failures: int) -> float:
    """Return how long to wait before the attempt after the n-th failure, n from 1."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_SECONDS)


def _of_progress(progress: Progress | None, present: RayJobObservation | None) -> Outcome | None:
    if progress is None or progress.state in ("starting", "running"):
        return None
    if progress.state == "complete":
        return Outcome("complete", "AllRowsCommitted", "Every input row is in the output")
    if progress.state == "paused":
        return Outcome("paused", "Paused", "The driver finished what was in flight and ended")
    name, _, text = progress.error.partition(": ")
    if name in FINAL_ERRORS:
        return Outcome("refused", name, text)
    if present is not None and present.state in LIVE:
        return None  # It lingers for this to be read; its exit code follows and says more.
    final = present is not None and present.exit_code in (USER_ERROR_EXIT, POLICY_EXIT)
    return Outcome("refused" if final else "failed", "DriverFailed", progress.error or "The driver gave no reason")


def _of_submission(present: RayJobObservation) -> Outcome | None:
    """Judge by what Ray says of a driver whose Progress is not to be had."""
    if present.state in LIVE:
        return None
    message = present.message or f"Ray says {present.state}"
    if present.state == "SUCCEEDED":
        return Outcome("interrupted", "EndedUnseen", "The driver ended and nobody saw how; the next attempt checks")
    if present.exit_code == USER_ERROR_EXIT:
        return Outcome("refused", "UserError", message)
    return Outcome("failed", "DriverStopped" if present.state == "STOPPED" else "DriverFailed", message)


def _lost(snapshot: Snapshot, present: RayJobObservation | None) -> Outcome | None:
    """Judge an attempt that was seen and of which nothing is left."""
    started = unix(snapshot.job.status.attempt_started_at)
    if started is None:
        return None
    cluster, head = snapshot.cluster, head_pod(snapshot)
    if cluster is None or cluster.deleting:
        if snapshot.job.status.pausing_since is not None:
            return Outcome("paused", "Paused", "The RayCluster went with the pause")
        return Outcome("interrupted", "ClusterLost", "The RayCluster was deleted while the job ran")
    if cluster.suspended:
        return Outcome("interrupted", "ClusterSuspended", "The RayCluster was suspended, as a queue does")
    if head is not None and head.created_at > started:
        return Outcome("interrupted", "HeadLost", "The head's pod was replaced while the job ran")
    if snapshot.ray.reachable and present is None:
        return Outcome("failed", "HeadRestarted", "The head's container restarted while the job ran")
    if ray_silent_seconds(snapshot) > HUNG_SECONDS:
        return Outcome("hung", "HeadSilent", f"The head has not answered for {HUNG_SECONDS:.0f} s")
    return None
