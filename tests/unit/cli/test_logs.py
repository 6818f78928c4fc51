"""What `llmbatch logs` prints of a driver's log as it grows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmbatch.cli import logs as logs_module
from llmbatch.cluster.proxied import ProxiedHead

BEGUN = "reading 3 files\nload"
ENDED = 'reading 3 files\nloading the model\nllmbatch-progress {"state": "complete"}\nRay says goodbye\n'
SHOWN = "reading 3 files\nloading the model\nRay says goodbye\n"


class Driver:
    """A driver that ends while it is looked at; each look finds the phase first, then the log."""

    def __init__(self, *steps: str) -> None:
        self._steps = list(steps)

    async def stored_job(self, *_: Any) -> dict[str, Any]:
        phase = self._steps.pop(0) if self._steps[0] in ("Running", "Complete") else "Running"
        return {"metadata": {"uid": "u"}, "status": {"attempt": 1, "phase": phase}}

    async def find(self, *_: Any) -> Driver:
        return self

    async def log(self, submission_id: str) -> str:
        assert submission_id == "u-1"
        return self._steps.pop(0)


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *steps: str, follow: bool = False
) -> str:
    driver = Driver(*steps)
    monkeypatch.setattr(logs_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(logs_module, "stored_job", driver.stored_job)
    monkeypatch.setattr(logs_module, "in_cluster", lambda *given: asyncio.run(given[3](None, "team")))
    monkeypatch.setattr(ProxiedHead, "find", driver.find)
    logs_module.logs("summarise", follow=follow)
    return capsys.readouterr().out


def test_the_line_for_machines_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert printed(monkeypatch, capsys, ENDED) == SHOWN


def test_a_line_that_is_not_ended_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert printed(monkeypatch, capsys, BEGUN) == BEGUN


def test_what_a_driver_prints_at_its_end_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    looks = ("Running", "Running", BEGUN, "Running", ENDED[:60], "Complete", ENDED)
    assert printed(monkeypatch, capsys, *looks, follow=True) == SHOWN
