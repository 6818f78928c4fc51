"""Status conditions, after Kubernetes' KEP-1623: types, and the one helper that sets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmbatch.api.base import Document

ConditionType = Literal["Accepted", "ClusterReady", "Running", "Suspended", "Degraded", "Stalled", "Complete", "Failed"]


class Condition(Document):
    """One aspect of the job's state."""

    type: ConditionType
    """The aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """One CamelCase word for programs."""
    message: str = ""
    """One sentence for people, without counts or times that change from pass to pass."""
    last_transition_time: str
    """When the status last flipped, RFC 3339, whole seconds."""
    observed_generation: int | None = None
    """The generation this speaks of."""


def set_condition(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """Return the conditions with `new` in place, sorted by type.

    The transition time moves only when the status flips, so that an unchanged state gives an unchanged status
    (Kubernetes API conventions; cluster-api `util/conditions`).
    """
    kept = {condition.type: condition for condition in conditions}
    old = kept.get(new.type)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    kept[new.type] = new
    return tuple(kept[key] for key in sorted(kept))
