"""What must be true of every status of a job as the API server has it, and of each step from one to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]
TERMINAL = ("Complete", "Failed")


def alone(status: Body, generation: int, rows: int) -> Iterator[str]:
    """Yield what is wrong with one status."""
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    if len(conditions) != len(status.get("conditions", [])):
        yield "a condition stands there twice"
    if not 0 < status.get("observedGeneration", 0) <= generation:
        yield f"observedGeneration {status.get('observedGeneration')} of generation {generation}"
    for item in conditions.values():
        if not 0 < item["observedGeneration"] <= status["observedGeneration"]:
            yield f"observedGeneration of {item['type']}"
        if not item["reason"] or item["lastTransitionTime"] > status["updatedAt"]:
            yield f"{item['type']} has no reason or flipped in the future"
    true = {kind for kind, item in conditions.items() if item["status"] == "True"}
    yield from _phases(status, true)
    yield from _rows(status.get("progress", {}), rows, complete="Complete" in true)
    capacity, preemptions = status.get("capacity", {}), status.get("preemptions", {})
    if capacity.get("spotReady", 0) > capacity.get("workersReady", 0):
        yield f"capacity {capacity}"
    if len(preemptions.get("recent", [])) > preemptions.get("total", 0):
        yield "more preemptions told than counted"


def _phases(status: Body, true: set[str]) -> Iterator[str]:
    for pair in (set(TERMINAL), {"Running", "Suspended"}, {"Running", "Complete"}, {"Running", "Failed"}):
        if pair <= true:
            yield f"{' and '.join(sorted(pair))} at once"
    for word in TERMINAL:
        if (status.get("phase") == word) != (word in true):
            yield f"phase {status.get('phase')} while {word} is {word in true}"
    if ("finishedAt" in status) != bool(true & set(TERMINAL)):
        yield "finishedAt and the conditions disagree"


def _rows(progress: Body, rows: int, *, complete: bool) -> Iterator[str]:
    done, total = progress.get("rowsCompleted", 0), progress.get("rowsTotal")
    if total is not None and total != rows:
        yield f"rowsTotal {total} of {rows}"
    if not progress.get("rowsFailed", 0) <= done <= rows:
        yield f"rowsCompleted {done}, rowsFailed {progress.get('rowsFailed')} of {rows}"
    if not 0 <= progress.get("percentage", 0) <= 100:
        yield f"percentage {progress['percentage']}"
    if complete and done != rows:
        yield f"complete with {done} of {rows} rows"


GROWING = (
    ("observedGeneration",),
    ("attempt",),
    ("failures",),
    ("interruptions",),
    ("progress", "rowsCompleted"),
    ("progress", "rowsTotal"),
    ("preemptions", "total"),
)
"""Fields that never fall, nor go away."""


def after(before: Body, now: Body) -> Iterator[str]:
    """Yield what is wrong with the step from one status to the next."""
    for path in GROWING:
        old, new = _at(before, path), _at(now, path)
        if old is not None and (new is None or new < old):
            yield f"{'.'.join(path)} fell from {old} to {new}"
    for field in ("startedAt", "rayClusterName", "finishedAt"):
        if field in before and now.get(field) != before[field]:
            yield f"{field} changed"
    fresh = {item["type"]: item for item in now.get("conditions", [])}
    for old in before.get("conditions", []):
        yield from _step(old, fresh.get(old["type"]))


def _at(status: Body, path: tuple[str, ...]) -> Any:
    found: Any = status
    for name in path:
        found = (found or {}).get(name)
    return found


def _step(old: Body, new: Body | None) -> Iterator[str]:
    if new is None:
        yield f"{old['type']} went away"
    elif old["type"] in TERMINAL and old["status"] == "True" and new["status"] != "True":
        yield f"{old['type']} did not stay"
    elif new["status"] == old["status"] and new["lastTransitionTime"] != old["lastTransitionTime"]:
        yield f"{old['type']} did not flip, and its time moved"
    elif new["lastTransitionTime"] < old["lastTransitionTime"]:
        yield f"{old['type']} flipped back in time"
