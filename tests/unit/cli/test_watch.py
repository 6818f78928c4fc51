"""When `llmbatch watch` ends, and when it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmbatch.cli import watch as watch_module
from llmbatch.cli.live import Live
from llmbatch.cluster.client import KubeClient
from llmbatch.errors import ApiServerError, InputError


def watched(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> tuple[str, list[tuple[str, str]]]:
    """Answer with these phases or errors, and return how the watch ended and what it showed."""
    left, shown = list(answers), []

    async def stored_job(*_: Any) -> dict[str, Any]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"status": {"phase": answer}}

    def show(job: dict[str, Any], said: Live) -> None:
        shown.append((job["status"]["phase"], said.trouble))

    monkeypatch.setattr(watch_module, "stored_job", stored_job)
    end = asyncio.run(watch_module._follow(KubeClient.__new__(KubeClient), "team", "summarise", show, 0.0))
    return end, shown


def test_it_goes_on_while_the_api_server_is_away(monkeypatch: pytest.MonkeyPatch):
    end, shown = watched(monkeypatch, "Starting", ApiServerError("connection refused"), "Complete")
    assert end == "Complete"
    assert shown == [("Starting", ""), ("Starting", "connection refused"), ("Complete", "")]


def test_a_job_that_is_deleted_ends_it(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError):
        watched(monkeypatch, "Starting", InputError("no such job"))


def test_an_api_server_that_is_away_at_first_ends_it(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ApiServerError):
        watched(monkeypatch, ApiServerError("connection refused"))
