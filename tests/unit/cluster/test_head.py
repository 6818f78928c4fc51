"""Ray's Jobs API and the control endpoint, asked over HTTP on loopback."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from llmbatch.api.capacity import Capacity
from llmbatch.api.progress import Progress
from llmbatch.cluster import head as head_module
from llmbatch.cluster.head import Head, HeadClient
from llmbatch.errors import HeadError, HeadTokenError
from serverkit import answering

Handler = Callable[[web.Request], Awaitable[web.Response]]


def asked(routes: dict[str, Any], work: Callable[[HeadClient, Head], Awaitable[Any]]) -> Any:
    """Serve fixed answers, by `METHOD path`, and return what `work` makes of them."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer secret":
            return web.Response(status=401)
        found = routes.get(f"{request.method} {request.path}")
        if isinstance(found, web.HTTPException):
            raise found
        if found is None:
            return web.Response(status=500, text="already exists")
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    async def run() -> Any:
        async with answering(answer) as port:
            client = HeadClient()
            try:
                return await work(client, Head("127.0.0.1", "secret", port, port))
            finally:
                await client.close()

    return asyncio.run(run())


JOBS = [
    {"submission_id": "uid-1", "status": "FAILED", "driver_exit_code": 3, "message": "boom", "type": "SUBMISSION"},
    {"submission_id": "other-1", "status": "RUNNING", "type": "SUBMISSION"},
    {"submission_id": None, "job_id": "01000000", "status": "RUNNING", "type": "DRIVER"},
]


def test_only_submissions_of_the_job_are_listed():
    [seen] = asked({"GET /api/jobs/": JOBS}, lambda client, head: client.list_jobs(head, "uid-"))
    assert (seen.submission_id, seen.state, seen.exit_code, seen.message) == ("uid-1", "FAILED", 3, "boom")


def test_that_a_submission_is_known_already_is_success():
    asked({"GET /api/jobs/": JOBS}, lambda client, head: client.submit(head, "uid-1", "python"))
    with pytest.raises(HeadError, match="already exists"):
        asked({"GET /api/jobs/": JOBS}, lambda client, head: client.submit(head, "uid-2", "python"))


def test_the_final_progress_is_the_last_one_of_the_log():
    final = Progress(state="complete", attempt=2)
    log = f"x\nllmbatch-progress {final.model_dump_json(by_alias=True)}\nRay says goodbye\n"
    routes = {"GET /api/v0/logs/file": log}
    assert asked(routes, lambda client, head: client.final_progress(head, "uid-1")) == final
    assert asked({"GET /api/v0/logs/file": "x\n"}, lambda client, head: client.final_progress(head, "uid-1")) is None


def test_a_capacity_is_answered_with_progress():
    progress = Progress(state="running", useful_gpus=3)
    routes = {"PUT /v1/capacity": progress.model_dump_json(by_alias=True)}
    assert asked(routes, lambda client, head: client.send_capacity(head, Capacity(sequence=1))) == progress


@pytest.mark.parametrize("answer", ["<html>", '{"state": "dancing"}'])
def test_an_answer_that_is_no_progress_is_an_error_of_the_head(answer: str):
    with pytest.raises(HeadError, match="no Progress"):
        asked({"GET /v1/progress": answer}, lambda client, head: client.progress(head))


def test_a_head_cannot_send_the_operator_elsewhere():
    routes = {
        "GET /v1/progress": web.HTTPTemporaryRedirect("/elsewhere"),
        "GET /elsewhere": Progress().model_dump_json(by_alias=True),
    }
    with pytest.raises(HeadError, match="307"):
        asked(routes, lambda client, head: client.progress(head))


def test_a_head_cannot_fill_the_memory_of_the_operator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head_module, "MAX_ANSWER_BYTES", 1000)
    answer = {"GET /v1/progress": Progress(error="x" * 2000).model_dump_json(by_alias=True)}
    with pytest.raises(HeadError, match="more than 1000 bytes"):
        asked(answer, lambda client, head: client.progress(head))


def test_a_wrong_token_and_a_silent_head_are_told_apart():
    with pytest.raises(HeadTokenError):
        asked({}, lambda client, head: client.progress(head._replace(token="wrong")))
    with pytest.raises(HeadError) as caught:
        asked({}, lambda client, head: client.progress(head._replace(control_port=9)))
    assert not isinstance(caught.value, HeadTokenError)


def test_no_token_shows_in_a_head_or_an_error():
    head = Head("10.0.0.1", "secret")
    assert "secret" not in repr(head)
    assert Head("fd00::1", "x").jobs == "http://[fd00::1]:8265"
