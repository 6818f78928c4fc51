"""The Plan while it is being made: actions, conditions and fields gather here, and one status comes out."""

from __future__ import annotations

from typing import Any

from llmbatch.api.conditions import Condition, ConditionType, set_condition
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.core.job.display import display_of
from llmbatch.core.job.phase import HEAD_NOT_READY, HEAD_READY, phase_of
from llmbatch.core.job.plan import Action, EmitEvent, Plan
from llmbatch.core.job.snapshot import Snapshot
from llmbatch.core.job.times import rfc3339, since

PATIENT_SECONDS = 15.0
"""Worker counts, and that the head is ready, lag at most this long, or as long as progress does where that is shorter:
most often something louder follows before."""
FIRST_NUMBERS_SECONDS = 30.0
"""Numbers of a young job lag at most this long, those of an older one a third of its age, up to `status_seconds`:
whoever watches a short job sees it move, and a job of any length costs few writes."""
MESSAGE_LENGTH = 32_768
"""Bound of a condition's message (metav1.Condition). What a driver says has none, and a status that is too large is
refused whole."""
QUIET_FIELDS: dict[str, Any] = {
    "progress": True,
    "stages": True,
    "capacity": {"workers_ready", "workers_wanted", "spot_ready", "gpus"},
    "estimated_cost": True,
    "updated_at": True,
    "display": True,
}
"""Numbers that do not bring about a write by themselves."""
EVENTS: dict[tuple[ConditionType, str], tuple[str, str]] = {
    ("Accepted", "False"): ("Warning", "Refused"),
    ("Running", "True"): ("Normal", "Running"),
    ("Suspended", "True"): ("Normal", "Suspended"),
    ("Degraded", "True"): ("Warning", "Degraded"),
    ("Stalled", "True"): ("Warning", "Stalled"),
    ("Stalled", "False"): ("Normal", "Moving"),
    ("Complete", "True"): ("Normal", "Complete"),
    ("Failed", "True"): ("Warning", "Failed"),
}
"""Which flips are told, and as what."""
STARTING = {("ClusterReady", HEAD_NOT_READY), ("ClusterReady", HEAD_READY)}
"""Conditions that say no more than that the job starts."""


class Draft:
    """A Plan in the making. Nothing of the snapshot is changed."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.stored = snapshot.job.status
        self.actions: list[Action] = []
        self.events: list[EmitEvent] = []
        self.reasons: list[str] = []
        self.requeue: float | None = None
        self._conditions = self.stored.conditions
        self._fields: dict[str, Any] = {}

    def field(self, name: str) -> Any:
        """Return a field of the status as it stands in this draft."""
        return self._fields[name] if name in self._fields else getattr(self.stored, name)

    def update(self, **fields: Any) -> None:
        """Set fields of the status."""
        self._fields |= fields

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return a condition as it stands in this draft."""
        return next((condition for condition in self._conditions if condition.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        """Tell whether a condition holds."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    def set(self, kind: ConditionType, holds: bool, reason: str, message: str = "", *, wavers: bool = False) -> None:
        """Set a condition. A message that wavers stays as it was while status and reason do."""
        old = self.condition(kind)
        if wavers and old is not None and (old.status == "True", old.reason) == (holds, reason):
            message = old.message
        new = Condition(
            type=kind,
            status="True" if holds else "False",
            reason=reason,
            message=message[:MESSAGE_LENGTH],
            last_transition_time=rfc3339(self.snapshot.now),
            observed_generation=self.snapshot.job.generation,
        )
        self._conditions = set_condition(self._conditions, new)

    def clear(self, kind: ConditionType, reason: str, message: str = "") -> None:
        """Set a condition to false if it is in the status at all."""
        condition = self.condition(kind)
        if condition is not None and (condition.status != "False" or condition.reason != reason):
            self.set(kind, False, reason, message)

    def act(self, *actions: Action) -> None:
        """Add actions."""
        self.actions.extend(actions)

    def tell(self, kind: str, reason: str, message: str) -> None:
        """Add an event that no condition stands for."""
        self.events.append(EmitEvent.model_validate({"type": kind, "reason": reason, "message": message}))

    def because(self, reason: str) -> None:
        """Add a reason in words."""
        self.reasons.append(reason)

    def again_in(self, seconds: float) -> None:
        """Ask for a pass after so many seconds at the latest."""
        seconds = max(seconds, 0.1)
        self.requeue = seconds if self.requeue is None else min(self.requeue, seconds)

    def plan(self) -> Plan:
        """Return the Plan. The status is the stored one, unless something worth a write changed."""
        fresh = self._fresh()
        write = self._worth_writing(fresh)
        if not write and self._is_patient(fresh):
            self.again_in(self._patience() - since(self.snapshot.now, self.stored.updated_at))
        return Plan(
            actions=tuple(self.actions),
            status=fresh if write else self.stored,
            events=(*self._flips(), *self.events) if write else (),
            requeue_after=self.requeue,
            reasons=tuple(self.reasons),
        )

    def _fresh(self) -> LLMBatchJobStatus:
        fields = self._fields | {
            "observed_generation": self.snapshot.job.generation,
            "conditions": self._conditions,
            "updated_at": rfc3339(self.snapshot.now),
            "phase": phase_of(self._conditions),
        }
        fresh = self.stored.model_copy(update=fields)
        return fresh.model_copy(update={"display": display_of(fresh)})

    def _worth_writing(self, fresh: LLMBatchJobStatus) -> bool:
        if _loud(fresh) != _loud(self.stored):
            return True
        age = since(self.snapshot.now, self.stored.updated_at)
        if self._is_patient(fresh) and age >= self._patience():
            return True
        derived = {"updated_at": self.stored.updated_at, "display": self.stored.display}
        return fresh.model_copy(update=derived) != self.stored and age >= self._numbers_lag()

    def _is_patient(self, fresh: LLMBatchJobStatus) -> bool:
        return fresh.capacity != self.stored.capacity or _head_ready(fresh) != _head_ready(self.stored)

    def _patience(self) -> float:
        return min(PATIENT_SECONDS, self.snapshot.settings.status_seconds)

    def _numbers_lag(self) -> float:
        young = max(FIRST_NUMBERS_SECONDS, since(self.snapshot.now, self.field("started_at")) / 3)
        return min(young, self.snapshot.settings.status_seconds)

    def _flips(self) -> list[EmitEvent]:
        before = {condition.type: condition.status for condition in self.stored.conditions}
        told = []
        for condition in self._conditions:
            event = EVENTS.get((condition.type, condition.status))
            if event is None or before.get(condition.type) == condition.status:
                continue
            message = condition.message or condition.reason
            told.append(EmitEvent.model_validate({"type": event[0], "reason": event[1], "message": message}))
        return told


def _loud(status: LLMBatchJobStatus) -> dict[str, Any]:
    loud = status.model_dump(exclude=QUIET_FIELDS)
    if not any(condition.type == "Running" and condition.status == "True" for condition in status.conditions):
        # The driver is submitted as soon as the head is ready: that it runs is told together with it.
        loud["conditions"] = [item for item in loud["conditions"] if (item["type"], item["reason"]) not in STARTING]
    return loud


def _head_ready(status: LLMBatchJobStatus) -> bool:
    return any(condition.type == "ClusterReady" and condition.status == "True" for condition in status.conditions)
