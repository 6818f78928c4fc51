"""The table of signals for people to read."""

from __future__ import annotations

from collections.abc import Iterable

from llmbatch.core.preemption.signals import Signal

_WHERE = {
    "nodeTaint": "node, taint",
    "nodeCondition": "node, condition",
    "nodeLabel": "node, label",
    "nodeCordon": "node, `spec.unschedulable`",
    "nodeDeletion": "node, deletion timestamp",
    "podCondition": "pod, condition",
    "podDeletion": "pod, deletion timestamp",
    "podFailure": "pod, phase Failed",
}


def signals_markdown(signals: Iterable[Signal]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| Name | Where | What | Means | Time left | Set by |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {signal.name} | {_WHERE[signal.place]} | {_what(signal)} | {_means(signal)} | {_left(signal)} "
        f"| {signal.set_by} |"
        for signal in signals
    ]
    return "\n".join(lines) + "\n"


def _what(signal: Signal) -> str:
    parts = [f"`{signal.key}`"] if signal.key else []
    if signal.place == "nodeCondition" and signal.status == "False":
        parts.append("false")
    if signal.value is not None:
        parts.append(f"`{signal.value}`")
    if signal.message:
        escaped = signal.message.replace("|", r"\|")
        parts.append(f"message `{escaped}`")
    return ", ".join(parts) or "any"


def _means(signal: Signal) -> str:
    if signal.loss == "failure":
        return f"{signal.kind}, a failure"
    return f"{signal.kind} on spot, else advisory" if signal.spot_only else signal.kind


def _left(signal: Signal) -> str:
    if signal.kind == "advisory":
        return ""
    if signal.place == "podDeletion":
        return "exact"
    if signal.lead_seconds is None:
        return ""
    if signal.lead_seconds == 0:
        return "none"
    date = "the message's date, else " if signal.place == "nodeCondition" and signal.status == "True" else ""
    return f"{date}{signal.lead_seconds:g} s"
