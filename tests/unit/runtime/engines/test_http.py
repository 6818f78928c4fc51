"""The HTTP engine against a real server on loopback that refuses, throttles and fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import openai
import pytest

from jobs import job, stage
from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.errors import EndpointError, SpecError
from llmbatch.runtime.engines.checks import check_engines
from llmbatch.runtime.engines.http import Http
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput
from serverkit import serving

KEY = "only-for-this-test"


ODD = {
    "a page": (b"<html>Please log in</html>", "text/html"),
    "a list": (b"[]", "application/json"),
    "no message": (b'{"choices": [{"index": 0, "finish_reason": "stop"}]}', "application/json"),
    "a text for a choice": (b'{"choices": ["x"]}', "application/json"),
    "a list for a text": (b'{"choices": [{"message": {"content": ["x"]}}]}', "application/json"),
    "half a token": (b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 0.5}}', "text/plain"),
}
"""Answers that are none, by what is asked."""
REFUSALS = {
    "too long": (400, "context length exceeded"),
    "tell me the key": (400, f"is {KEY} not your key?"),
    "403": (403, "not this one"),
    "404": (404, "not this one"),
}
"""Statuses and messages that are answered, by what is asked."""


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that echoes; `trouble` holds status codes to answer first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble: list[int] = []
        self.ended = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.answer(401, {"error": {"message": "bad key"}})
        self.server.seen.append(body)
        if self.server.trouble:
            return self.answer(self.server.trouble.pop(0), {"error": {"message": "trouble"}})
        if self.path.endswith("/embeddings"):
            if body["input"] == "no usage":
                return self.answer(200, {"data": [{"embedding": [1.0]}]})
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, float(len(body["input"]))]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return self.answer(200, {"object": "list", "model": "m", "data": data, "usage": usage})
        text = body["messages"][-1]["content"]
        if text in REFUSALS:
            status, message = REFUSALS[text]
            return self.answer(status, {"error": {"message": message}})
        if text == "forbidden fruit":
            return self.answer(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []})
        if text in ODD:
            return self.answer_with(200, *ODD[text])
        if text == "hang up":
            self.close_connection = True
            return None
        if text == "never ends":
            self.server.ended.wait(10)
            return None
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text.upper()}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return self.answer(
            200,
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage},
        )

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.answer_with(status, json.dumps(body).encode(), "application/json")

    def answer_with(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    with serving(Server()) as server:
        yield server


def engine(server: Server, *, timeout: float = 600.0, retries: int = 3, **changes: Any) -> Iterator[Http]:
    endpoint = {"url": server.url, "apiKeyEnv": "TEST_API_KEY", "maxRetries": retries, "timeoutSeconds": timeout}
    made = Http(stage(engine="openai", model={"name": "m"}, endpoint=endpoint, **changes))
    yield made
    made.close()


def ask(text: str, row_id: str = "a") -> Request:
    return Request(row_id, ({"role": "user", "content": text},), text)


def test_answers_come_in_the_order_of_the_requests(server: Server) -> None:
    for http in engine(server):
        answers = http.run([ask(f"row {n}") for n in range(20)])
        assert [answer.value for answer in answers if isinstance(answer, StageOutput)] == [
            f"ROW {n}" for n in range(20)
        ]


def test_throttling_and_server_errors_are_retried(server: Server) -> None:
    server.trouble = [429, 500]
    for http in engine(server):
        assert http.run([ask("hi")]) == [StageOutput("HI", 5, 2, "stop")]
    assert len(server.seen) == 3


def test_a_refused_request_is_one_error_row(server: Server) -> None:
    for http in engine(server):
        good, bad = http.run([ask("hi"), ask("too long")])
        assert isinstance(good, StageOutput)
        assert isinstance(bad, RowError)
        assert bad.code == "Http400"


def test_an_answer_without_a_choice_is_one_error_row(server: Server) -> None:
    for http in engine(server):
        good, bad = http.run([ask("hi"), ask("forbidden fruit")])
        assert isinstance(good, StageOutput)
        assert isinstance(bad, RowError)
        assert (bad.code, bad.message.partition(":")[0]) == ("BadAnswer", "the answer cannot be used")


@pytest.mark.parametrize("odd", ODD)
def test_an_answer_of_another_shape_is_one_error_row(server: Server, odd: str) -> None:
    for http in engine(server):
        good, bad = http.run([ask("hi"), ask(odd)])
        assert isinstance(good, StageOutput)
        assert isinstance(bad, RowError)
        assert (bad.code, bad.message.partition(":")[0]) == ("BadAnswer", "the answer cannot be used")


def test_a_connection_that_is_lost_too_often_is_one_error_row(server: Server) -> None:
    for http in engine(server, retries=1):
        good, bad = http.run([ask("hi"), ask("hang up")])
        assert isinstance(good, StageOutput)
        assert isinstance(bad, RowError)
        assert bad.code == "ConnectionLost"
    assert [body["messages"][-1]["content"] for body in server.seen].count("hang up") == 2


def test_rows_fail_while_an_endpoint_is_away_that_answered_before(server: Server) -> None:
    for http in engine(server, retries=0):
        http.run([ask("hi")])
        server.server_close()
        [lost] = http.run([ask("hang up")])
        assert isinstance(lost, RowError)
        assert lost.code == "ConnectionLost"


def test_no_row_fails_for_an_address_where_nothing_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "url", "http://127.0.0.1:9/v1")
    for http in engine(server, retries=0):
        with pytest.raises(EndpointError, match=r"endpoint.url: 'http://127.0.0.1:9/v1/': no answer: "):
            http.run([ask("hi"), ask("ho")])


def test_a_request_that_never_ends_is_one_error_row(server: Server) -> None:
    for http in engine(server, timeout=2, retries=0):
        good, bad = http.run([ask("hi"), ask("never ends")])
        server.ended.set()
        assert isinstance(good, StageOutput)
        assert isinstance(bad, RowError)
        assert (bad.code, bad.message) == ("Timeout", "no answer within 2 s")


def test_a_wrong_key_ends_the_job(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", "wrong")
    for http in engine(server):
        with pytest.raises(SpecError, match="answered 401"):
            http.run([ask("hi")])


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_an_endpoint_refuses_that_works_is_one_error_row(server: Server, status: str) -> None:
    for http in engine(server):
        for answers in (http.run([ask(status), ask("hi")]), http.run([ask(status)])):
            assert isinstance(answers[0], RowError)
            assert answers[0].code == f"Http{status}"
            assert "not this one" in answers[0].message


@pytest.mark.parametrize("status", ["403", "404"])
def test_an_endpoint_that_never_worked_and_refuses_ends_the_job(server: Server, status: str) -> None:
    for http in engine(server):
        http.run([ask("too long")])
        with pytest.raises(SpecError, match=f"answered {status}: check key and model; it said: .*not this one"):
            http.run([ask(status), ask("too long")])


def test_a_key_that_is_refused_later_ends_the_job(server: Server) -> None:
    for http in engine(server):
        http.run([ask("hi")])
        server.trouble = [401]
        with pytest.raises(SpecError, match="answered 401"):
            http.run([ask("hi")])


def test_no_error_row_has_the_key_in_it(server: Server) -> None:
    for http in engine(server, retries=0):
        [refused] = http.run([ask("tell me the key")])
        assert isinstance(refused, RowError)
        assert "is *** not your key?" in refused.message


def test_no_error_of_the_client_has_the_key_in_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(*_: Any, **__: Any) -> None:
        raise openai.APIConnectionError(message=f"Illegal header value b'Bearer {KEY}'", request=Mock())

    for http in engine(server, retries=0):
        monkeypatch.setattr(http._client._client, "send", send)
        with pytest.raises(EndpointError, match=r"Illegal header value b'Bearer \*\*\*'$"):
            http.run([ask("hi")])


def test_sampling_and_schema_reach_the_endpoint(server: Server) -> None:
    sampling = {"maxTokens": 9, "temperature": 0.5, "seed": 3, "topK": 4, "jsonSchema": {"type": "object"}}
    for http in engine(server, sampling=sampling):
        http.run([ask("hi", "a"), ask("hi", "b")])
    first, second = server.seen
    assert (first["max_tokens"], first["temperature"], first["top_k"]) == (9, 0.5, 4)
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert first["seed"] != second["seed"]


def test_embeddings(server: Server) -> None:
    for http in engine(server, task="embed"):
        assert http.run([ask("four")]) == [StageOutput([0.5, 4.0], 3)]
        assert http.run([ask("no usage")]) == [StageOutput([1.0])]


def with_key_of(name: str, folder: Path) -> LLMBatchJobSpec:
    document = {
        "name": "say",
        "engine": "openai",
        "model": {"name": "m"},
        "prompt": {"user": "x"},
        "endpoint": {"url": "http://127.0.0.1:9/v1", "apiKeyEnv": name},
    }
    return job(folder, stages=[document]).spec


def test_a_missing_key_is_named_before_anything_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    with pytest.raises(SpecError, match="'ABSENT_KEY': set this environment variable"):
        check_engines(with_key_of("ABSENT_KEY", tmp_path))


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-sécret", "sk-se\tcret", "\n", "sk-secret\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ODD_KEY", key)
    with pytest.raises(SpecError, match="'ODD_KEY': the variable must hold printable ASCII") as error:
        check_engines(with_key_of("ODD_KEY", tmp_path))
    assert "cret" not in str(error.value)
