"""`llmbatch submit`: a job file into a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmbatch.api.base import API_VERSION, GROUP, KIND
from llmbatch.api.job import LLMBatchJob
from llmbatch.cli.cluster import Context, Kubeconfig, Namespace, in_cluster
from llmbatch.cli.exits import INVALID
from llmbatch.cli.job_file import read_jobs
from llmbatch.cli.render import children_of
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import SpecError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

MANAGER = "llmbatch-cli"


def submit(
    file: Annotated[Path, typer.Argument(help="Job file: YAML or JSON, one job or more.")],
    dry_run: Annotated[
        Literal["none", "client", "server"],
        typer.Option(help="client: check here; server: let the API server check. Neither changes anything."),
    ] = "none",
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Create or change the jobs of a file (server-side apply). Exit code 2 when one is invalid."""
    jobs = _checked(file)
    if dry_run == "client":
        for job in jobs:
            typer.echo(f"{_named(job)} is valid (client dry run)")
        return

    async def work(kube: KubeClient, default: str) -> None:
        for job in jobs:
            outcome = await _apply(kube, job, job.metadata.namespace or default, dry_run=dry_run == "server")
            typer.echo(f"{_named(job)} {outcome}{' (server dry run)' if dry_run == 'server' else ''}")

    in_cluster(kubeconfig, context, namespace, work)


def _checked(file: Path) -> list[LLMBatchJob]:
    """Return the jobs of a file, or print every problem of them all and end."""
    try:
        found = list(read_jobs(file))
    except SpecError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(INVALID) from error
    jobs = [job for job in found if isinstance(job, LLMBatchJob)]
    problems = [str(problem) for job in found if isinstance(job, list) for problem in job]
    problems += [f"{file}: {problem}" for job in jobs if (problem := _never_runs(job))]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(INVALID)
    return jobs


def _never_runs(job: LLMBatchJob) -> str:
    """Return why the operator would refuse a job that the API server accepts; blank when it would not."""
    try:
        children_of(job, "default", OperatorSettings())
    except SpecError as error:
        return str(error)
    return ""


async def _apply(kube: KubeClient, job: LLMBatchJob, namespace: str, *, dry_run: bool) -> str:
    from llmbatch.cluster import paths

    path = paths.single(KIND, namespace, job.metadata.name)
    before = await kube.get(path)
    after = await kube.apply(path, _as_written(job, namespace), manager=MANAGER, dry_run=dry_run)
    if before is None:
        return "created"
    return "unchanged" if after["metadata"]["generation"] == before["metadata"]["generation"] else "configured"


def _as_written(job: LLMBatchJob, namespace: str) -> dict[str, Any]:
    """Return what the user wrote and no default: a field that is applied is owned."""
    written = job.model_dump(mode="json", by_alias=True, exclude_unset=True, include={"spec"})
    metadata = {"name": job.metadata.name, "namespace": namespace}
    for field in ("labels", "annotations"):
        if marks := getattr(job.metadata, field):
            metadata[field] = marks
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, **written}


def _named(job: LLMBatchJob) -> str:
    return f"{KIND.lower()}.{GROUP}/{job.metadata.name}"
