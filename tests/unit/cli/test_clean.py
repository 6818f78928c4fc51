"""`llmbatch clean`: shows first, deletes when asked, and refuses the output of a job that can still write."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from jobs import job
from ledgerkit import (
    manifest_of,
    shard_keys,
    table_of,
)
from llmbatch.api.runspec import run_spec
from llmbatch.cli.main import app
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.outputs import write_shard
from llmbatch.runtime.records import RetryPlan

KEYS = shard_keys(files=1, shards=3, rows=2)
DAY = 86_400


def clean(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["clean", str(folder / "job.yaml"), *more])


def parts(folder: Path) -> set[str]:
    return {path.relative_to(folder / "out").as_posix() for path in folder.glob("out/data/*/*")}


@pytest.fixture
def running(tmp_path: Path) -> Ledger:
    """A job each of whose shards was written twice a day ago, and that is not complete."""
    whole = job(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(whole.to_wire()))
    plan = run_spec(whole)
    ledger = Ledger.open(plan.spec.output, plan.spec_hash, plan.job)
    for key in KEYS:
        for _ in range(2):
            write_shard(ledger, plan.spec, key, table_of(key, ids=lambda row, key=key: f"{key}-{row}"))
    old = time.time() - DAY
    for path in tmp_path.glob("out/data/*/*"):
        os.utime(path, (old, old))
    return ledger


@pytest.fixture
def complete(tmp_path: Path, running: Ledger) -> Path:
    """The same, complete since a day ago."""
    finished = datetime.fromtimestamp(time.time() - DAY, UTC)
    finalize(running, manifest_of(KEYS), job(tmp_path).spec, finished)
    return tmp_path


def test_it_shows_first_and_deletes_when_asked(complete: Path) -> None:
    before = parts(complete)
    shown = clean(complete)
    assert shown.exit_code == 0, shown.output
    assert "3 parts with 6 rows are kept" in shown.output
    assert "3 files, " in shown.output
    assert "--delete deletes them" in shown.output
    assert parts(complete) == before

    deleted = clean(complete, "--delete", "--list")
    assert deleted.exit_code == 0
    assert "deleted 3 files, " in deleted.output
    named = {line for line in deleted.output.splitlines() if line.startswith("data/")}
    final = json.loads((complete / "out" / "_FINAL").read_text())
    kept = {winner.data for winner in Ledger.find(job(complete).spec.output).winners()}
    assert named == before - kept
    assert parts(complete) == kept
    assert final["shards"] == len(kept)

    assert "nothing to delete" in clean(complete, "--delete").output


def test_a_job_that_is_not_complete_keeps_everything(tmp_path: Path, running: Ledger) -> None:
    before = parts(tmp_path)
    result = clean(tmp_path, "--delete", "--grace", "0")
    assert result.exit_code == 2
    assert "output.uri" in result.output
    assert "any attempt can still win" in result.output
    assert parts(tmp_path) == before


def test_a_job_that_just_ended_keeps_everything(complete: Path) -> None:
    before = parts(complete)
    result = clean(complete, "--delete", "--grace", str(2 * DAY))
    assert (result.exit_code, "nothing goes before the job's end is 172,800 s ago" in result.output) == (0, True)
    assert parts(complete) == before


def test_a_retry_that_is_under_way_keeps_everything(complete: Path) -> None:
    ledger = Ledger.find(job(complete).spec.output)
    ledger.create_retry_plan(1, RetryPlan(request="a", started_at=datetime.now(UTC), shards=(str(KEYS[0]),)))
    before = parts(complete)
    result = clean(complete, "--delete", "--grace", "0")
    assert result.exit_code == 2
    assert "a retry of its failed rows is not complete" in result.output
    assert parts(complete) == before


def test_another_jobs_output_is_refused(complete: Path) -> None:
    before = parts(complete)
    other = job(complete, shardRows=17)
    (complete / "job.yaml").write_text(yaml.safe_dump(other.to_wire()))
    result = clean(complete, "--delete")
    assert result.exit_code == 2
    assert "it holds the output of job local/test with spec " in result.output
    assert parts(complete) == before


def test_an_output_that_is_not_there_is_named(tmp_path: Path, complete: Path) -> None:
    result = clean(complete, "--output", str(tmp_path / "absent"))
    assert result.exit_code == 2
    assert "absent': nothing was run there yet" in result.output
    assert not (tmp_path / "absent").exists()
