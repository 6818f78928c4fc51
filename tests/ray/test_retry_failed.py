"""`llmbatch retry-failed` as a user runs it, against an endpoint that was broken and is mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import job
from runkit import ROOT
from serverkit import serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

ROWS = 40


class Endpoint(ThreadingHTTPServer):
    """Answers in capitals; refuses what `refuses` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuses = lambda text: False
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        self.server.asked.append(text)
        refused = self.server.refuses(text)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text.upper()}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        answer = {"error": {"message": "no"}} if refused else {"choices": [choice], "usage": usage}
        data = json.dumps(answer).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"id": str(number), "text": f"row {number}"}) for number in range(ROWS)]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def llmbatch(verb: str, folder: Path, endpoint: Endpoint, limit: float = 1.0) -> tuple[int, str]:
    """Run a verb on the folder's job and return its exit code and all it printed."""
    address = {"url": f"http://127.0.0.1:{endpoint.server_address[1]}/v1", "apiKeyEnv": "KEY"}
    stage = {
        "name": "say",
        "engine": "openai",
        "model": {"name": "m"},
        "endpoint": address,
        "prompt": {"user": "{{ text }}"},
        "resources": {"cpus": 0.2},
    }
    document = job(
        folder,
        input={"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id"},
        stages=[stage],
        output={"uri": f"{folder}/out", "format": "jsonl"},
        shardRows=10,
        failurePolicy={"maxErrorRate": limit},
    ).to_wire()
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    program = str(Path(sys.executable).parent / "llmbatch")
    arguments = [program, verb, str(path), "--json", "--object-store-mb", "150"]
    environment = {**os.environ, "KEY": "only-for-this-test"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def exported(folder: Path) -> list[dict[str, Any]]:
    program = str(Path(sys.executable).parent / "llmbatch")
    subprocess.run([program, "export", str(folder / "job.yaml"), str(folder / "all.jsonl")], check=True, cwd=ROOT)
    return [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]


def test_failed_rows_run_again_once_and_the_output_has_each_row_once(folder: Path, endpoint: Endpoint):
    refused = {"row 3", "row 4", "row 25"}
    endpoint.refuses = refused.__contains__
    code, said = llmbatch("run", folder, endpoint)
    assert code == 0, said
    assert {row["id"] for row in exported(folder) if row["error"]} == {"3", "4", "25"}

    endpoint.refuses = {"row 4"}.__contains__
    endpoint.asked.clear()
    code, said = llmbatch("retry-failed", folder, endpoint)
    assert code == 0, said
    assert set(endpoint.asked) == refused
    rows = exported(folder)
    assert [row["id"] for row in rows] == [str(number) for number in range(ROWS)]
    assert {row["id"] for row in rows if row["error"]} == {"4"}
    assert rows[25]["say"] == "ROW 25"


def test_a_job_that_failed_by_its_error_rate_is_completed(folder: Path, endpoint: Endpoint):
    endpoint.refuses = lambda _: True
    code, said = llmbatch("run", folder, endpoint, limit=0.0)
    assert code == 1, said
    endpoint.refuses = lambda _: False
    code, said = llmbatch("retry-failed", folder, endpoint, limit=0.0)
    assert code == 0, said
    rows = exported(folder)
    assert [row["say"] for row in rows] == [f"ROW {number}" for number in range(ROWS)]
