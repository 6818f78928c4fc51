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
