"""`llmbatch retry-failed`: run the rows again that ended with an error, here or in a cluster."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.job import LLMBatchJob
from llmbatch.api.runspec import run_spec
from llmbatch.cli.cluster import Context, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.cli.exits import stopped
from llmbatch.cli.job_file import problems, read_job
from llmbatch.cli.run import AsJson, Cpus, ObjectStoreMb, OutputUri, Report, run_here
from llmbatch.errors import InputError, LLMBatchError, OutputError, SpecError
from llmbatch.runtime.embedded import RunOptions

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

JOB_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 52
TRACKING = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
)
"""Labels by which Argo CD, Flux and Helm know their own: they would prune a job that is not in git."""


def retry_failed(
    job: Annotated[str, typer.Argument(help="A job file: runs here. A name: a job in the cluster.")],
    output: OutputUri = None,
    as_json: AsJson = False,
    report: Report = None,
    cpus: Cpus = None,
    object_store_mb: ObjectStoreMb = 512,
    name: Annotated[str | None, typer.Option(help="In a cluster: name of the job that retries.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run the rows of a job again that ended with an error, and keep the others.

    Afterwards the output has each row once, as before. Endpoints, resources, replicas and batch sizes may have changed
    since; what decides the output may not. Rows that fail again stay as rows with an error. A job that failed because
    of too many of them goes on where it was.
    """
    if JOB_NAME.fullmatch(job):
        in_cluster(kubeconfig, context, namespace, lambda kube, default: _create(kube, default, job, name))
    else:
        _run_here(Path(job), output, RunOptions(cpus=cpus, object_store_mb=object_store_mb), report, as_json=as_json)


def _run_here(file: Path, output: str | None, options: RunOptions, report: Path | None, *, as_json: bool) -> None:
    from llmbatch.runtime.ledger import Ledger

    console = Console(stderr=as_json)
    try:
        job = read_job(file, output)
        if Ledger.find(job.spec.output) is None:
            raise OutputError.of("output.uri", job.spec.output.uri, "nothing was run there yet")
        job = job.model_copy(update={"spec": job.spec.model_copy(update={"retry_failed": True})})
        attempt = run_spec(job).model_copy(update={"uid": f"{job.metadata.name}-{uuid.uuid4().hex}"})
        run_here(job, attempt, console, options, report=report, as_json=as_json)
    except LLMBatchError as error:
        raise stopped(error, console) from error


async def _create(kube: KubeClient, namespace: str, name: str, new_name: str | None) -> None:
    """Create a job that retries: one that has ended never runs again itself."""
    from llmbatch.cluster import paths

    stored = await stored_job(kube, namespace, name)
    status = stored.get("status") or {}
    if status.get("phase") not in ("Complete", "Failed"):
        raise InputError.of("JOB", name, f"must have ended; its phase is {status.get('phase', 'Pending')}")
    if status["phase"] == "Complete" and not (status.get("progress") or {}).get("rowsFailed"):
        typer.echo(f"{name} has no failed rows: nothing to do")
        return
    retry = retrying(stored, new_name or next_name(name))
    if await kube.create(paths.collection(KIND, namespace), retry) is None:
        raise InputError.of("--name", retry["metadata"]["name"], "must be free: a job of that name exists")
    typer.echo(f"{retry['metadata']['name']} created: it runs the failed rows of {name} again")


def retrying(stored: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the job that retries a stored one: the same spec and labels under another name.

    Raises:
        SpecError: the name is none, or the spec has what this version does not know.
    """
    metadata: dict[str, Any] = {"name": name, "namespace": stored["metadata"]["namespace"]}
    labels = stored["metadata"].get("labels") or {}
    if kept := {key: value for key, value in labels.items() if not key.startswith(TRACKING)}:
        metadata["labels"] = kept
    spec = {**stored["spec"], "retryFailed": True, "suspend": False}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    try:
        LLMBatchJob.model_validate(document)
    except ValidationError as error:
        raise SpecError("\n".join(str(problem) for problem in problems(name, error))) from error
    return document


def next_name(name: str) -> str:
    """Return the name of the retry of a job: `a` gives `a-retry-1`, and that gives `a-retry-2`."""
    found = re.fullmatch(r"(.*)-retry-(\d+)", name)
    base, number = (found[1], int(found[2]) + 1) if found else (name, 1)
    mark = f"-retry-{number}"
    return base[: LONGEST_NAME - len(mark)].rstrip("-") + mark
