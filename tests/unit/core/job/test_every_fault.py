"""One life of a job, lived again with one fault at each place where one can happen (after Sieve, OSDI 2022).

The life has everything a job meets: workers on notice, a head that is replaced, suspend and resume, a driver that
fails. Every pass of every life keeps the rules of `plancheck`, and each ends like the one without a fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from controllerkit import spec
from jobworld import World
from llmbatch.core.job.plan import Plan

Fault = dict[str, Any]


@dataclass
class Life(World):
    """A world with one fault, in the pass of that number."""

    at: int = -1
    fault: Fault = field(default_factory=dict)
    passes: int = 0
    writes_of: list[int] = field(default_factory=list)

    def step(self, **_: Any) -> Plan:
        fault = self.fault if self.passes == self.at else {}
        self.passes += 1
        plan = super().step(**fault)
        self.writes_of.append(len(plan.actions) + (plan.status != self.status))
        return plan


def lived(at: int = -1, **fault: Any) -> Life:
    """Live the life, with a fault in pass `at`."""
    life = Life(spec=spec(failurePolicy={"backoffLimit": 9}), rows=200, at=at, fault=fault)
    life.run(until="Running").run(passes=2)
    life.notice_spot(1, 12.0)
    life.run(passes=2)
    life.replace_head()
    life.run(passes=1).run(until="Running")
    life.fail_driver("InternalError: broken", 3)
    life.run(passes=1).run(until="Running")
    life.change(suspend=True)
    life.run(until="Suspended")
    life.change(suspend=False)
    life.run(passes=400, until="Complete").run(passes=8)
    return life


PLAIN = lived()


def assert_ends_well(life: Life) -> None:
    assert life.committed == life.rows
    assert life.status.progress is not None
    assert life.status.progress.rows_completed == life.rows
    assert life.cluster is None
    assert not life.live_drivers()
    assert life.children == PLAIN.children
    assert life.status.preemptions is not None
    assert life.status.preemptions.total <= 1
    assert life.status.phase == "Complete"
    assert [event.reason for event in life.events].count("Complete") == 1


def test_the_life_without_a_fault_has_all_of_it():
    assert_ends_well(PLAIN)
    assert (PLAIN.status.failures, PLAIN.status.interruptions) == (1, 1)
    assert PLAIN.status.attempt == 4
    assert PLAIN.pauses == 1


@pytest.mark.parametrize("at", range(PLAIN.passes))
def test_a_crash_after_any_write(at: int):
    for writes in range(PLAIN.writes_of[at] + 1):
        assert_ends_well(lived(at, crash_after=writes))


@pytest.mark.parametrize("at", range(PLAIN.passes))
def test_any_write_refused(at: int):
    for number in range(PLAIN.writes_of[at]):
        assert_ends_well(lived(at, fail_at=number))


@pytest.mark.parametrize("fault", ["stale", "old_self", "lost"])
def test_a_stale_read_or_a_lost_event_in_any_pass(fault: str):
    for at in range(PLAIN.passes):
        assert_ends_well(lived(at, **{fault: True}))
