"""From a Node or Pod object to the notice on it, by the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from llmbatch.core.preemption.notice import Notice, merged
from llmbatch.core.preemption.signals import Place, Signal, signal_table

Body = Mapping[str, Any]

_DATE = re.compile(r"\b\w{3},\s+\d{1,2}\s+\w{3}\s+\d{4}\s+\d{2}:\d{2}:\d{2}\s+(?:GMT|UTC)\b")


class Sign(NamedTuple):
    """One thing on an object that a row may speak of."""

    place: Place
    """Where it is."""
    key: str = ""
    """Taint key, label key or condition type."""
    value: str = ""
    """Taint value, label value, or reason."""
    status: str = "True"
    """Status of a condition."""
    message: str = ""
    """Message of a condition, white space folded."""
    deadline: float | None = None
    """When the pod is killed, Unix seconds, where the object says so."""
    since: float | None = None
    """When it was set, Unix seconds, where the object says so."""


class Classifier:
    """Reads notices off objects, by the built-in rows and those an operator adds."""

    def __init__(self, added: Sequence[Signal] = ()) -> None:
        self._rows: dict[tuple[Place, str], list[Signal]] = {}
        for signal in signal_table(added):
            self._rows.setdefault((signal.place, signal.key), []).append(signal)

    def node(self, body: Body) -> Notice | None:
        """Return the one notice that follows from a Node object as the API server gives it; None when it stays."""
        return self._notice(_node_signs(body))

    def pod(self, body: Body) -> Notice | None:
        """Return the one notice that follows from a Pod object as the API server gives it; None when it stays."""
        return self._notice(_pod_signs(body))

    def _notice(self, signs: Iterable[Sign]) -> Notice | None:
        return merged(_meaning(sign, signal) for sign in signs for signal in self._matching(sign))

    def _matching(self, sign: Sign) -> list[Signal]:
        """Return the rows that speak of a sign; a row that names a value or a message goes before one that does not."""
        found = [signal for signal in self._rows.get((sign.place, sign.key), ()) if _matches(sign, signal)]
        return [signal for signal in found if signal.value is not None or signal.message] or found


def _matches(sign: Sign, signal: Signal) -> bool:
    return (
        sign.status == signal.status
        and signal.value in (None, sign.value)
        and (not signal.message or re.search(signal.message, sign.message) is not None)
    )


def _meaning(sign: Sign, signal: Signal) -> Notice:
    deadline = _deadline(sign, signal)
    source = signal.name
    if sign.place in ("podCondition", "podFailure") and signal.value is None and sign.value:
        source = f"{signal.name}: {sign.value}"
    return Notice(
        kind=signal.kind,
        source=source,
        deadline=deadline,
        lead_seconds=signal.lead_seconds if deadline is None else None,
        observed_at=sign.since,
        spot_only=signal.spot_only,
        loss=signal.loss,
    )


def _deadline(sign: Sign, signal: Signal) -> float | None:
    """Return when the kill is due as far as the object says: its own time, a date in the message, or since and lead."""
    if sign.deadline is not None or signal.kind == "advisory":
        return sign.deadline
    # A kill that is under way has no date to wait for, whatever the message says.
    date = None if signal.lead_seconds == 0 else _date_in(sign.message)
    if date is not None or sign.since is None or signal.lead_seconds is None:
        return date
    return sign.since + signal.lead_seconds


def _node_signs(body: Body) -> Iterator[Sign]:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    for taint in spec.get("taints") or ():
        yield Sign("nodeTaint", taint["key"], taint.get("value") or "", since=_time(taint.get("timeAdded")))
    for condition in status.get("conditions") or ():
        yield _condition("nodeCondition", condition)
    for key, value in (metadata.get("labels") or {}).items():
        yield Sign("nodeLabel", key, value)
    if spec.get("unschedulable"):
        yield Sign("nodeCordon")
    if metadata.get("deletionTimestamp"):
        yield Sign("nodeDeletion", since=_time(metadata["deletionTimestamp"]))


def _pod_signs(body: Body) -> Iterator[Sign]:
    metadata, status = body["metadata"], body.get("status") or {}
    for condition in status.get("conditions") or ():
        yield _condition("podCondition", condition)
    if metadata.get("deletionTimestamp"):
        killed = _time(metadata["deletionTimestamp"])
        grace = metadata.get("deletionGracePeriodSeconds") or 0
        yield Sign("podDeletion", deadline=killed, since=None if killed is None else killed - grace)
    if status.get("phase") == "Failed":
        yield Sign("podFailure", value=status.get("reason") or "")


def _condition(place: Place, condition: Body) -> Sign:
    return Sign(
        place,
        condition["type"],
        condition.get("reason") or "",
        condition.get("status") or "",
        " ".join((condition.get("message") or "").split()),
        since=_time(condition.get("lastTransitionTime")),
    )


def _time(text: str | None) -> float | None:
    return _seconds(datetime.fromisoformat, text) if text else None


def _date_in(message: str) -> float | None:
    """Return the first RFC 1123 date of a message; one without a zone that is UTC is no date."""
    found = _DATE.search(message)
    return None if found is None else _seconds(parsedate_to_datetime, found.group().replace("UTC", "GMT"))


def _seconds(parse: Callable[[str], datetime], text: str) -> float | None:
    """Return Unix seconds, None for a text that is no time: what others write must not stop a pass."""
    try:
        parsed = parse(text)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
