"""The example for an HTTP endpoint, against a small server in its place."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from runkit import ROOT, run
from serverkit import serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

KEY = "only-for-this-test"
LABELS = ("hardware", "software", "people")


class Endpoint(BaseHTTPRequestHandler):
    """Answers a chat request with JSON of the asked schema; refuses the first requests of all with 429."""

    server: "Server"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.headers["Authorization"], body))
            throttled = len(self.server.seen) <= 3
        text = body["messages"][-1]["content"]
        label = json.dumps({"label": LABELS[len(text) % 3]})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": label}}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        data = json.dumps({"error": {"message": "slow down"}} if throttled else {**answer, "usage": usage}).encode()
        self.send_response(429 if throttled else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """The endpoint, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.lock = threading.Lock()
        self.seen: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def test_the_http_example_labels_every_row_once(server: Server, tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "examples" / "http-endpoint.yaml").read_text())
    endpoint = document["spec"]["stages"][0]["endpoint"]
    endpoint |= {"url": f"http://127.0.0.1:{server.server_address[1]}/v1", "requestsPerMinute": 6000}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    code, last = run(path, tmp_path / "out", env={"OPENAI_API_KEY": KEY})
    assert code == 0, last
    assert {authorization for authorization, _ in server.seen} == {f"Bearer {KEY}"}
    schema = document["spec"]["stages"][0]["sampling"]["jsonSchema"]
    assert all(body["response_format"]["json_schema"]["schema"] == schema for _, body in server.seen)
    parts = [path.read_text() for path in (tmp_path / "out" / "data").rglob("*.jsonl")]
    rows = [json.loads(line) for part in parts for line in part.splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 360
    assert Counter(json.loads(row["label"])["label"] for row in rows).keys() <= set(LABELS)
    assert KEY not in (tmp_path / "out" / "_FINAL").read_text() + json.dumps(last)
