"""The wait for KubeRay: an operator that starts before it ends once it comes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmbatch.controller import app, watch
from llmbatch.controller.app import Operator, Options
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import ApiServerError, ForbiddenError

THERE = {"resources": [{"name": "rayclusters"}]}
REFUSED = ForbiddenError('User "llmbatch" cannot get path "/apis/ray.io/v1"')


class Kube:
    """An API server that gives these answers to the question which resources there are."""

    writes = 0

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    async def get(self, path: str) -> Any:
        assert path == "/apis/ray.io/v1"
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ends(answers: list[Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Give the answers, and return whether the operator is then told to end."""
    for module in (app, watch):
        monkeypatch.setattr(module, "NO_KUBERAY_SECONDS", 0.0)

    async def waited() -> bool:
        kube: Any = Kube(answers)
        operator, stop = Operator(kube, OperatorSettings(), Options()), asyncio.Event()
        try:
            await operator._end_when_kuberay_comes(stop)
        finally:
            await operator._heads.close()
        return stop.is_set()

    return asyncio.run(waited())


@pytest.mark.parametrize(
    ("answers", "end"),
    [([THERE], False), ([None, THERE], True), ([ApiServerError("busy"), THERE], False), ([REFUSED, THERE], True)],
    ids=["there", "comes", "there, asked twice", "there, not allowed at first"],
)
def test_it_ends_when_kuberay_came_after_the_start(answers: list[Any], end: bool, monkeypatch: pytest.MonkeyPatch):
    assert ends(answers, monkeypatch) == end
    assert not answers


def test_a_missing_right_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    ends([REFUSED, REFUSED, REFUSED, None, REFUSED, THERE], monkeypatch)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("/apis/ray.io/v1" in message for message in said) == 1
