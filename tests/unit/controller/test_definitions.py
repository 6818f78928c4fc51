"""The wait for what the operator watches: one that starts before that is there ends once it comes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmbatch.controller import app, watch
from llmbatch.controller.app import Operator, Options
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import ApiServerError, ForbiddenError

KUBERAY, JOBS = "/apis/ray.io/v1", "/apis/llmbatch.dev/v1alpha1"
THERE = {"resources": [{"name": "rayclusters"}, {"name": "llmbatchjobs"}]}
REFUSED = ForbiddenError('User "llmbatch" cannot get path "/apis/..."')


class Kube:
    """An API server that gives these answers to the question which resources there are."""

    writes = 0

    began: asyncio.Event
    """Set once kopf may begin."""

    def __init__(self, asked: str, answers: list[Any]) -> None:
        self._asked, self._answers = asked, answers
        self._unanswered = True

    async def get(self, path: str) -> Any:
        assert path == self._asked
        assert self.began.is_set() != self._unanswered
        answer = self._answers.pop(0)
        self._unanswered = self._unanswered and isinstance(answer, ApiServerError)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ends(asked: str, answers: list[Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Give the answers, and return whether the operator is then told to end. kopf begins with the first real one."""
    for module in (app, watch):
        monkeypatch.setattr(module, "ABSENT_SECONDS", 0.0)

    async def waited() -> bool:
        kube: Any = Kube(asked, answers)
        operator, stop, began = Operator(kube, OperatorSettings(), Options()), asyncio.Event(), asyncio.Event()
        kube.began = began
        try:
            is_there = operator._watch.jobs_served if asked == JOBS else operator._watch.kuberay_installed
            await operator._end_when_it_comes(stop, "It", is_there, began)
        finally:
            await operator._heads.close()
        assert began.is_set()
        return stop.is_set()

    return asyncio.run(waited())


@pytest.mark.parametrize("asked", [KUBERAY, JOBS])
@pytest.mark.parametrize(
    ("answers", "end"),
    [([THERE], False), ([None, THERE], True), ([ApiServerError("busy"), THERE], False), ([REFUSED, THERE], True)],
    ids=["there", "comes", "there, asked twice", "there, not allowed at first"],
)
def test_it_ends_when_something_came_after_the_start(
    asked: str, answers: list[Any], end: bool, monkeypatch: pytest.MonkeyPatch
):
    given = list(answers)
    assert ends(asked, given, monkeypatch) == end
    assert not given


def test_a_missing_right_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    ends(KUBERAY, [REFUSED, REFUSED, REFUSED, None, REFUSED, THERE], monkeypatch)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(str(REFUSED) in message for message in said) == 1
