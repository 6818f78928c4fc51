"""The checker of statuses finds what is wrong: a check that cannot fail proves nothing."""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import Any

import pytest

from statuscheck import Body, after, alone

ROWS = 40
EARLY, LATE, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"


def condition(kind: str, status: str, since: str = EARLY) -> Body:
    return {"type": kind, "status": status, "reason": "Test", "lastTransitionTime": since, "observedGeneration": 1}


def running() -> Body:
    return {
        "phase": "Running",
        "observedGeneration": 1,
        "updatedAt": NOW,
        "startedAt": EARLY,
        "attempt": 2,
        "interruptions": 1,
        "progress": {"rowsCompleted": 10, "rowsFailed": 1, "rowsTotal": ROWS, "percentage": 25.0},
        "capacity": {"workersReady": 2, "spotReady": 1},
        "preemptions": {"total": 1, "recent": [{}]},
        "conditions": [condition("Accepted", "True"), condition("Running", "True")],
    }


def complete() -> Body:
    ended = {"phase": "Complete", "finishedAt": NOW}
    conditions = [condition("Accepted", "True"), condition("Complete", "True", NOW), condition("Running", "False", NOW)]
    progress = {"rowsCompleted": ROWS, "rowsFailed": 1, "rowsTotal": ROWS, "percentage": 100.0}
    return running() | ended | {"conditions": conditions, "progress": progress}


def changed(status: Body, path: str, value: Any) -> Body:
    copy = deepcopy(status)
    *parents, last = path.split(".")
    place: Any = copy
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is None:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return copy


def test_a_run_that_goes_well_is_not_reproached():
    steps = [running(), changed(running(), "progress.rowsCompleted", 20), complete()]
    assert not [problem for status in steps for problem in alone(status, 1, ROWS)]
    assert not [problem for pair in itertools.pairwise(steps) for problem in after(*pair)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("phase", "Complete"),
        ("phase", "Failed"),
        ("finishedAt", NOW),
        ("observedGeneration", 2),
        ("conditions.0.observedGeneration", 2),
        ("conditions.0.reason", ""),
        ("conditions.0.lastTransitionTime", "2027-01-01T00:00:00Z"),
        ("conditions.0.type", "Running"),
        ("conditions.0.type", "Suspended"),
        ("progress.rowsTotal", ROWS + 1),
        ("progress.rowsCompleted", ROWS + 1),
        ("progress.rowsCompleted", 0),
        ("progress.percentage", 101),
        ("capacity.spotReady", 3),
        ("preemptions.total", 0),
    ],
)
def test_a_wrong_status_is_found(path: str, value: Any):
    assert list(alone(changed(running(), path, value), 1, ROWS))


@pytest.mark.parametrize(
    ("path", "value"),
    [("progress.rowsCompleted", ROWS - 1), ("conditions.2.status", "True"), ("finishedAt", None)],
)
def test_a_wrong_end_is_found(path: str, value: Any):
    assert list(alone(changed(complete(), path, value), 1, ROWS))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("attempt", 1),
        ("attempt", None),
        ("interruptions", 0),
        ("progress.rowsCompleted", 9),
        ("progress.rowsTotal", None),
        ("preemptions", None),
        ("startedAt", LATE),
        ("conditions.1.lastTransitionTime", LATE),
        ("conditions", []),
    ],
)
def test_a_wrong_step_is_found(path: str, value: Any):
    assert list(after(running(), changed(running(), path, value)))


def test_an_end_that_does_not_stay_is_found():
    again = changed(complete(), "conditions.1", condition("Complete", "False", NOW))
    assert list(after(complete(), again))


def test_a_flip_back_in_time_is_found():
    before = changed(running(), "conditions.1.lastTransitionTime", LATE)
    now = changed(running(), "conditions.1", condition("Running", "False", EARLY))
    assert list(after(before, now))
