"""`llmbatch explain`: the Plan for a saved Snapshot."""

import json
from pathlib import Path

from typer.testing import CliRunner

from controllerkit import job, running_snapshot, running_status
from llmbatch.cli.main import app
from llmbatch.core.job.snapshot import Notice, RuntimeObservation, Snapshot


def save(folder: Path, snapshot: Snapshot) -> str:
    file = folder / "snapshot.json"
    file.write_text(snapshot.model_dump_json(by_alias=True), encoding="utf-8")
    return str(file)


def test_explain_says_what_is_done_and_why(tmp_path: Path):
    healthy = running_snapshot()
    notice = Notice(kind="reclaim", source="aws-node-termination-handler/spot-itn", deadline=healthy.now + 120)
    doomed = healthy.pods[1].model_copy(update={"notice": notice})
    snapshot = healthy.model_copy(update={"pods": (healthy.pods[0], doomed, *healthy.pods[2:])})
    result = CliRunner().invoke(app, ["explain", save(tmp_path, snapshot)])
    assert result.exit_code == 0, result.output
    assert "team/summarise: new -> Running" in result.stdout
    assert '"kind":"reclaim"' in result.stdout
    assert "event    Warning Preempted: On notice or gone: w0" in result.stdout
    assert "again    in 10 s at the latest" in result.stdout


def test_explain_names_the_children_of_a_new_job(tmp_path: Path):
    status = running_status(attempt_started_at=None)
    snapshot = running_snapshot(
        job=job(status=status), cluster=None, pods=(), children=(), runtime=RuntimeObservation()
    )
    result = CliRunner().invoke(app, ["explain", save(tmp_path, snapshot)])
    assert "create RayCluster summarise" in result.stdout
    assert "create Secret summarise-token" in result.stdout


def test_explain_prints_the_plan_as_json(tmp_path: Path):
    result = CliRunner().invoke(app, ["explain", "--json", save(tmp_path, running_snapshot())])
    assert json.loads(result.stdout)["actions"][0]["action"] == "SendCapacity"


def test_explain_refuses_what_is_no_snapshot(tmp_path: Path):
    file = tmp_path / "snapshot.json"
    file.write_text('{"now": 1, "jobs": []}', encoding="utf-8")
    result = CliRunner().invoke(app, ["explain", str(file)])
    assert result.exit_code == 2
    assert "must be a Snapshot document" in result.stderr
