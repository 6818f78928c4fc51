"""`llmbatch status` of a job whose head answers, through the API server's proxy and on the caller's rights."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.faults import Faults
from typer.testing import CliRunner

from controllerkit import condition
from llmbatch.api.base import KIND
from llmbatch.api.job import LLMBatchJobStatus, RowProgress
from llmbatch.cli.main import app
from llmbatch.core.job.times import rfc3339
from operatorkit import Kube, job, kube

pytestmark = pytest.mark.cluster
TOKEN = "a-token-of-the-test"
HEAD = """
import os, threading
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from llmbatch.runtime.control import Board, application, serving
from llmbatch.runtime.desired import Desired
board = Board()
board.post(Progress(state="running", rows=RowProgress(rows_total=99000, rows_completed=43210)))
with serving(application(os.environ["TOKEN"], Desired(), board), "0.0.0.0", 8200):
    threading.Event().wait()
"""


def llmbatch(api: Kube, kubeconfig: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "-n", api.namespace, "--kubeconfig", str(kubeconfig)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def start_head(api: Kube, labels: dict[str, str]) -> None:
    core = f"/api/v1/namespaces/{api.namespace}"
    secret = {"metadata": {"name": "summarise-token"}, "stringData": {"auth_token": TOKEN}}
    api.create_at(f"{core}/secrets", secret)
    api.wait(lambda: api.get_at(f"{core}/serviceaccounts/default"))
    container = {
        "name": "ray",
        "image": "python:3.11",
        "command": ["python", "-c", HEAD],
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "summarise-token", "key": "auth_token"}}}],
    }
    marks = {"llmbatch.dev/job": "summarise", "ray.io/node-type": "head"}
    spec = {"nodeSelector": labels, "containers": [container]}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "head", "labels": marks}, "spec": spec})


def start_job(api: Kube) -> None:
    """Create a job whose status was written two hours ago."""
    stored = api.create(job())
    then = rfc3339(time.time() - 7200)
    status = LLMBatchJobStatus(
        phase="Running",
        attempt=1,
        conditions=(condition("Running", reason="DriverRunning"),),
        progress=RowProgress(rows_total=99_000, rows_completed=42_000),
        updated_at=then,
    )
    path = f"/apis/llmbatch.dev/v1alpha1/namespaces/{api.namespace}/llmbatchjobs/summarise/status"
    api.thread.run(api.client.replace(path, {**stored, "status": status.to_wire()}))


def without_rights(api: Kube, folder: Path) -> Path:
    """Return a kubeconfig of somebody who may read the jobs and no more."""
    core, rbac = f"/api/v1/namespaces/{api.namespace}", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}"
    api.create_at(f"{core}/serviceaccounts", {"metadata": {"name": "reader"}})
    rule = {"apiGroups": ["llmbatch.dev"], "resources": ["llmbatchjobs"], "verbs": ["get", "list"]}
    api.create_at(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": api.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    api.create_at(f"{rbac}/rolebindings", {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": role})
    api.wait_for_right("reader", "list", "llmbatch.dev", "llmbatchjobs")
    token = api.create_at(f"{core}/serviceaccounts/reader/token", {"spec": {}})["status"]["token"]
    config: dict[str, Any] = yaml.safe_load(api.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    file = folder / "reader.kubeconfig"
    file.write_text(json.dumps(config))
    return file


def test_status_reads_the_head_where_the_caller_may(testbed_gateway: str, kubeconfig: Path, tmp_path: Path):
    with kube(kubeconfig) as api:
        node, labels = f"machine-{uuid.uuid4().hex[:8]}", {"example.com/test": api.namespace}
        api.thread.run(Faults(api.client).come(node, gpus=0, **labels))
        try:
            start_job(api)
            start_head(api, labels)
            api.wait(lambda: "43,210 / 99,000" in llmbatch(api, api.kubeconfig, "status", "summarise"))
            shown = llmbatch(api, without_rights(api, tmp_path), "status", "summarise")
            assert "42,000 of 99,000" in shown
            assert "these figures are 2h" in shown
            assert "forbidden" in shown
            api.delete(KIND, "summarise")
        finally:
            api.thread.run(Faults(api.client).vanish(node))
