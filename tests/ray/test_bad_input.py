"""Input that turns out bad while the job runs: the error names what to change, and what is committed stays."""

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import job
from runkit import ROOT, command, commits

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

STAGE = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"cpus": 0.2}}
LINES = [json.dumps({"id": str(number), "text": f"row {number}"}) for number in range(200)]


def failing(folder: Path, **changes: Any) -> tuple[int, str]:
    """Run a job and return its exit code and everything it said on stderr and in its result."""
    document = job(folder, **{"output": {"uri": f"{folder}/out"}} | changes).to_wire()
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(command(path, folder / "out"), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(LINES) + "\n")
    return tmp_path


def test_a_stage_that_needs_a_gpu_where_there_is_none(folder: Path) -> None:
    code, said = failing(folder, stages=[{**STAGE, "resources": {"gpus": 16}}])
    assert code == 2
    assert "CapacityError spec.stages[0].resources.gpus: 16: this machine has " in said
    assert not commits(folder / "out")


def test_a_truncated_gzip_is_named_and_what_is_committed_stays(folder: Path) -> None:
    # Long enough for rows of the other file to be committed before this one comes to its end.
    whole = gzip.compress("\n".join(LINES * 100).encode(), compresslevel=0)
    (folder / "in" / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    code, said = failing(folder, input={"uri": f"{folder}/in/*.jsonl*", "format": "jsonl"})
    assert code == 2
    assert f"\nInputError input.uri: '{folder}/in/b.jsonl.gz': Truncated compressed stream" in f"\n{said}"
    assert not any(word in said for word in ("Traceback", "DataContext"))
    assert commits(folder / "out")
    assert not (folder / "out" / "_FINAL").exists()


def test_a_broken_line_ends_the_job_where_it_says_so(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_text("\n".join([*LINES[:150], '{"id": "x", ', *LINES[150:]]) + "\n")
    spec = {"uri": f"{folder}/in/*.jsonl", "format": "jsonl", "idField": "id", "onInvalidRow": "fail"}
    code, said = failing(folder, input=spec)
    assert code == 2
    assert f"\nInputError input.uri: '{folder}/in/a.jsonl" in f"\n{said}"
    assert "set input.onInvalidRow: record" in said
    assert not any(word in said for word in ("Traceback", "DataContext"))
    assert not (folder / "out" / "_FINAL").exists()
