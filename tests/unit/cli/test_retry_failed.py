"""What `llmbatch retry-failed` makes of a stored job, and what it refuses."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs import job
from llmbatch.cli.main import app
from llmbatch.cli.retry_failed import next_name, retrying
from llmbatch.errors import SpecError


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("summarise", "summarise-retry-1"),
        ("summarise-retry-1", "summarise-retry-2"),
        ("summarise-retry-9", "summarise-retry-10"),
        ("a" * 52, "a" * 44 + "-retry-1"),
    ],
)
def test_a_retry_is_named_after_its_job(name: str, then: str):
    assert next_name(name) == then
    assert len(then) <= 52


def test_a_retry_is_the_same_job_under_another_name(tmp_path: Path):
    stored = job(tmp_path, suspend=True).to_wire()
    labels = {"team": "a", "app.kubernetes.io/instance": "jobs", "argocd.argoproj.io/instance": "jobs"}
    stored["metadata"] |= {"namespace": "team", "uid": "1", "resourceVersion": "7", "labels": labels}
    stored["status"] = {"phase": "Failed"}
    made = retrying(stored, "again")
    assert made["metadata"] == {"name": "again", "namespace": "team", "labels": {"team": "a"}}
    assert made["spec"] == {**stored["spec"], "suspend": False, "retryFailed": True}
    assert "status" not in made


def test_a_name_that_is_none_is_refused_in_words(tmp_path: Path):
    stored = job(tmp_path).to_wire()
    stored["metadata"]["namespace"] = "team"
    with pytest.raises(SpecError, match=r"metadata\.name: 'Again!': "):
        retrying(stored, "Again!")


def test_nothing_to_retry_where_nothing_was_run(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job(tmp_path, output={"uri": f"{tmp_path}/out"}).to_wire()))
    done = CliRunner().invoke(app, ["retry-failed", str(file)])
    assert done.exit_code == 2
    assert "nothing was run there yet" in done.output
    assert not (tmp_path / "out").exists()
