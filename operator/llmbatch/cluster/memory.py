"""What is known of a job beyond the stored objects: answers, refusals, silences. Rebuilt after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from llmbatch.api.capacity import Capacity
from llmbatch.api.progress import Progress
from llmbatch.core.job.plan import Action
from llmbatch.core.job.roster import Roster
from llmbatch.core.job.snapshot import ChildObservation, ClusterFacts, RayClusterObservation
from llmbatch.errors import ApiServerError, ForbiddenError, LLMBatchError, RejectedError


class Refusal(NamedTuple):
    """An action that the API server did not carry out."""

    action: Action
    """The action."""
    error: LLMBatchError
    """Why: a ForbiddenError, RejectedError or ApiServerError."""
    since: float
    """Since when actions end like this, Unix seconds."""


@dataclass(slots=True)
class Memory:
    """One job's."""

    token: str | None = None
    """The job's token, once read or made."""
    children: dict[tuple[str, str], ChildObservation] = field(default_factory=dict)
    """By kind and name, those that are there."""
    children_due_at: float | None = None
    """When they are to be read, Unix seconds."""
    missing_secrets: tuple[str, ...] = ()
    """Secrets named by the spec that were not there."""
    secrets_read_at: float | None = None
    """When they were last looked for, Unix seconds."""
    forbidden: dict[str, str] = field(default_factory=dict)
    """By what was to be read, the message of a 403, until the same question is answered."""
    refused: Refusal | None = None
    """What ended the last actions, until all of a pass are carried out."""
    roster: Roster = field(default_factory=Roster)
    """The workers that the last pass saw, and those that went unseen."""
    cluster_made: bool = False
    """Whether a RayCluster was created, so that its watch may lag behind where it shows none."""
    stored: RayClusterObservation | None = None
    """The RayCluster as the last own patch left it, or as it was read since."""
    deleted: str = ""
    """uid of the RayCluster that was deleted last."""
    head_uid: str = ""
    """uid of the head's pod that the next two speak of."""
    head_silent_since: float | None = None
    """Since when the Jobs API has not answered, Unix seconds."""
    driver_silent_since: float | None = None
    """Since when the control endpoint has not answered, Unix seconds."""
    final: dict[str, Progress | None] = field(default_factory=dict)
    """By its submission id, what the log of the driver that ended last says; None: nothing."""
    delivered: tuple[str, int | None, Capacity] | None = None
    """uid of the head's pod and attempt that took a Capacity last, and that Capacity."""
    log_tries: int = 0
    """How often the log of a driver that ended could not be read."""

    def head_is(self, uid: str) -> None:
        """Begin anew with a head's pod that was replaced: its silence is not the old one's."""
        if uid != self.head_uid:
            self.head_uid, self.head_silent_since, self.driver_silent_since = uid, None, None

    def latest(self, watched: RayClusterObservation | None) -> RayClusterObservation | None:
        """Return a RayCluster as its watch shows it, or as the own writes left it where the watch lags behind.

        The watch of the pods may be ahead of it: a pod then goes by the own order, and nothing says so.
        """
        if watched is not None and watched.uid == self.deleted:
            return watched.model_copy(update={"deleting": True})
        if watched is None or self.stored is None or self.stored.uid != watched.uid:
            return watched
        # Of one object, the greater resourceVersion is the later one (KEP-5504).
        return max(watched, self.stored, key=lambda seen: int(seen.resource_version))

    def refuse(self, action: Action, error: LLMBatchError, now: float) -> bool:
        """Keep what the API server did not carry out; return whether that is the same action as last time."""
        before = self.refused
        lasts = before is not None and type(before.error) is type(error)
        self.refused = Refusal(action, error, before.since if before is not None and lasts else now)
        return before is not None and before.action == action

    def facts(self, *, kuberay_installed: bool) -> ClusterFacts:
        """Return what a Snapshot tells of the Kubernetes cluster."""
        unserved = self._refused_with(ApiServerError)
        return ClusterFacts(
            kuberay_installed=kuberay_installed,
            forbidden=tuple(sorted((*self.forbidden.values(), *self._refused_with(ForbiddenError)))),
            rejected=self._refused_with(RejectedError),
            unserved=unserved,
            unserved_since=self.refused.since if self.refused is not None and unserved else None,
            missing_secrets=self.missing_secrets,
        )

    def _refused_with(self, kind: type[LLMBatchError]) -> tuple[str, ...]:
        refused = self.refused
        return (str(refused.error),) if refused is not None and isinstance(refused.error, kind) else ()
