"""The control endpoint over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from llmbatch.api.job import RowProgress
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.runtime.control import Board, application, serving
from llmbatch.runtime.desired import Desired

TOKEN = "the-token"


class Client:
    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None, token: str = TOKEN) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.base + path, data, {"Authorization": f"Bearer {token}"}, method=method)
        with urlopen(request, timeout=10) as answer:
            return bytes(answer.read())


@pytest.fixture
def desired() -> Desired:
    return Desired()


@pytest.fixture
def board() -> Board:
    board = Board()
    pool = PoolProgress(name="say", ready=2, pending=1, queued_rows=7, rows_completed=30, service_seconds_per_row=0.5)
    rows = RowProgress(rows_completed=30, rows_failed=4, prompt_tokens=100, completion_tokens=20)
    board.post(Progress(state="running", rows=rows, pools=(pool,), gpus=3, useful_gpus=5))
    return board


@pytest.fixture
def client(desired: Desired, board: Board) -> Iterator[Client]:
    with serving(application(TOKEN, desired, board), "127.0.0.1", 0) as port:
        yield Client(port)


def refused(client: Client, *arguments: Any, **named: Any) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        client.ask(*arguments, **named)
    caught.value.close()
    return caught.value


def test_a_capacity_goes_in_and_progress_comes_out(client, desired):
    doomed = [{"worker": "w-1", "address": "10.0.0.7", "kind": "reclaim", "deadline": 1234.5}]
    answer = client.ask("PUT", "/v1/capacity", {"sequence": 3, "doomed": doomed, "pause": True})
    assert Progress.model_validate_json(answer).gpus == 3
    assert desired.latest().pause
    assert desired.latest().doomed[0].address == "10.0.0.7"


def test_an_older_capacity_changes_nothing_and_its_sender_is_told(client, desired):
    client.ask("PUT", "/v1/capacity", {"sequence": 3, "gpusGranted": 4})
    assert refused(client, "PUT", "/v1/capacity", {"sequence": 2, "gpusGranted": 1}).code == 409
    assert desired.latest().gpus_granted == 4


def test_the_same_capacity_may_come_again(client, desired):
    for _ in range(2):
        client.ask("PUT", "/v1/capacity", {"sequence": 1, "gpusGranted": 4})
    assert desired.latest().gpus_granted == 4


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/capacity"), ("GET", "/v1/progress"), ("GET", "/metrics")])
@pytest.mark.parametrize("token", ["", "another", TOKEN + "x", "\xff\xfe"])
def test_nothing_is_told_or_taken_without_the_token(client, desired, method, path, token):
    error = refused(client, method, path, {"sequence": 9} if method == "PUT" else None, token=token)
    assert error.code == 401
    assert desired.latest().sequence == 0


def test_a_capacity_that_is_none_names_the_field(client, desired):
    error = refused(client, "PUT", "/v1/capacity", {"gpusGranted": -1})
    assert error.code == 400
    assert desired.latest().gpus_granted is None


def test_metrics_say_what_progress_says(client):
    text = client.ask("GET", "/metrics").decode()
    for line in (
        'llmbatch_rows_total{result="succeeded"} 26.0',
        'llmbatch_rows_total{result="failed"} 4.0',
        'llmbatch_tokens_total{kind="prompt"} 100.0',
        'llmbatch_stage_replicas{stage="say",state="ready"} 2.0',
        'llmbatch_stage_queued_rows{stage="say"} 7.0',
        'llmbatch_stage_service_seconds_per_row{stage="say"} 0.5',
        "llmbatch_useful_gpus 5.0",
    ):
        assert line in text.splitlines()


def test_nobody_counts_the_gpus_of_stock_ray(client, board):
    assert "llmbatch_ray_gpus 3.0" in client.ask("GET", "/metrics").decode()
    board.post(Progress(state="running", allocation_policy="stock"))
    assert "llmbatch_ray_gpus" not in client.ask("GET", "/metrics").decode()


def test_the_end_is_known_to_be_read(client, board):
    client.ask("GET", "/v1/progress")
    assert not board.end_was_read.is_set()
    board.post(Progress(state="complete"))
    client.ask("PUT", "/v1/capacity", {})
    assert board.end_was_read.is_set()


def test_the_end_counts_as_read_by_the_controller_alone(client, board):
    board.post(Progress(state="complete"))
    proxied = Request(client.base + "/v1/progress", headers={"X-Ray-Authorization": f"Bearer {TOKEN}"})
    with urlopen(proxied, timeout=10) as answer:
        assert json.loads(answer.read())["state"] == "complete"
    assert not board.end_was_read.is_set()
    client.ask("GET", "/v1/progress")
    assert board.end_was_read.is_set()
