"""What an attempt on a Ray head leaves in its log for a controller that comes late."""

from pathlib import Path

import pytest

from jobs import job
from llmbatch.api.progress import FINAL_LINE, Progress
from llmbatch.api.runspec import run_spec
from llmbatch.runtime import serve


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(serve.TOKEN_ENV, "token")
    monkeypatch.setattr(serve, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)


def test_an_attempt_that_ends_before_it_begins_says_why_and_which_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runspec.json"
    file.write_text(run_spec(job(tmp_path)).to_text(), encoding="utf-8")
    assert serve.main(["--run-spec", str(file), "--attempt", "2", "--port", "0"]) == serve.INVALID
    progress = Progress.from_wire(capsys.readouterr().out.removeprefix(FINAL_LINE))
    assert (progress.state, progress.attempt) == ("failed", 2)
    assert progress.error.startswith("InputError: input.uri: ")


def test_a_key_that_no_header_can_hold_ends_an_attempt_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ODD_KEY", "sk-secret\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"id": "a", "text": "b"}\n')
    endpoint = {"url": "http://127.0.0.1:9/v1", "apiKeyEnv": "ODD_KEY"}
    stage = {"name": "s", "engine": "openai", "model": {"name": "m"}, "prompt": {"user": "x"}, "endpoint": endpoint}
    file = tmp_path / "runspec.json"
    file.write_text(run_spec(job(tmp_path, stages=[stage])).to_text(), encoding="utf-8")
    assert serve.main(["--run-spec", str(file), "--port", "0"]) == serve.INVALID
    said = capsys.readouterr()
    progress = Progress.from_wire(said.out.removeprefix(FINAL_LINE))
    assert progress.error.startswith("SpecError: endpoint.apiKeyEnv: 'ODD_KEY': the variable must hold printable ASCII")
    assert "secret" not in said.out + said.err
    assert not (tmp_path / "out").exists()
