"""The verbs for a cluster against a real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from llmbatch.api.base import KIND
from llmbatch.cli.main import app
from operatorkit import Kube, job, kube, operating

pytestmark = pytest.mark.cluster


def llmbatch(api: Kube, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "-n", api.namespace, "--kubeconfig", str(api.kubeconfig)])


def saved(folder: Path, document: dict[str, Any]) -> str:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


def test_submit_creates_changes_and_leaves_alone(kubeconfig: Path, tmp_path: Path):
    with kube(kubeconfig) as api:
        file = saved(tmp_path, job())
        result = llmbatch(api, "submit", file, "--dry-run", "server")
        assert "created (server dry run)" in result.output
        assert api.get(KIND, "summarise") is None
        assert "summarise created" in llmbatch(api, "submit", file).output
        assert "summarise unchanged" in llmbatch(api, "submit", file).output
        assert "summarise configured" in llmbatch(api, "submit", saved(tmp_path, job(suspend=True))).output
        assert "allocation" not in job()["spec"]
        fields = next(f for f in api.job("summarise")["metadata"]["managedFields"] if f["manager"] == "llmbatch-cli")
        assert "f:allocation" not in json.dumps(fields)


def test_submit_passes_on_what_the_api_server_refuses(kubeconfig: Path, tmp_path: Path):
    with kube(kubeconfig) as api:
        llmbatch(api, "submit", saved(tmp_path, job()))
        changed = llmbatch(api, "submit", saved(tmp_path, job(output={"uri": "s3://elsewhere/"})))
        assert changed.exit_code == 2
        assert "immutable: create another job" in changed.stderr


def test_status_and_watch_show_why_a_job_does_not_run_and_how_it_ended(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
            shown = llmbatch(api, "status", "summarise").output
            assert "Unschedulable" in shown
            assert "No node takes a head pod" in " ".join(shown.split())
            assert "Stalled" in llmbatch(api, "status").output
            assert json.loads(llmbatch(api, "status", "summarise", "--json").output)["attempt"] == 1
            api.patch(KIND, "summarise", {"spec": {"activeDeadlineSeconds": 1}})
            watched = llmbatch(api, "watch", "summarise")
            assert watched.exit_code == 1
            assert watched.output.splitlines()[-1] == "Failed"
            assert api.condition("summarise", "Failed")[1] == "DeadlineExceeded"


def test_cancel_suspends_or_deletes(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            api.wait(lambda: api.get("RayCluster", "summarise"))
            assert llmbatch(api, "cancel", "summarise").exit_code == 0
            api.wait(lambda: api.condition("summarise", "Suspended")[0] == "True")
            assert api.get("RayCluster", "summarise") is None
            llmbatch(api, "cancel", "summarise", "--delete")
            api.wait(lambda: api.get(KIND, "summarise") is None)


def test_a_job_that_ended_is_retried_by_another_job(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job(activeDeadlineSeconds=1))
        assert "must have ended" in llmbatch(api, "retry-failed", "summarise").stderr
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Failed")[0] == "True")
        done = llmbatch(api, "retry-failed", "summarise")
        assert done.exit_code == 0, done.output
        made = api.job("summarise-retry-1")["spec"]
        assert made.pop("retryFailed")
        assert made == {key: value for key, value in api.job("summarise")["spec"].items() if key != "retryFailed"}
        assert "a job of that name exists" in llmbatch(api, "retry-failed", "summarise").stderr


def test_a_job_that_is_not_there_is_named(kubeconfig: Path):
    with kube(kubeconfig) as api:
        for verb in ("status", "watch", "logs", "cancel", "retry-failed"):
            result = llmbatch(api, verb, "nothing")
            assert result.exit_code == 2
            assert "'nothing'" in result.stderr


def test_logs_of_a_job_without_a_head_say_so(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
            result = llmbatch(api, "logs", "summarise")
            assert result.exit_code == 1
            assert "no head that is ready" in result.stderr
