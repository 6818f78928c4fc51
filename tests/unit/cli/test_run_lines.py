"""`llmbatch run --json`: stdout is one JSON object a line, whatever else prints."""

import json
import sys

import pytest
from rich.console import Console

from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from llmbatch.cli.run import _shown


def test_what_ray_prints_does_not_mix_with_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(state="running", spec_hash="0" * 16, attempt=1, elapsed_seconds=1, rows=RowProgress())
    with _shown(Console(stderr=True), as_json=True) as show:
        show(progress)
        print("(raylet) A worker died or was killed")
        show(progress)
    out, err = capsys.readouterr()
    assert [json.loads(line)["progress"]["elapsedSeconds"] for line in out.splitlines()] == [1, 1]
    assert "(raylet) A worker died" in err
    assert sys.stdout is not sys.stderr
