"""`llmbatch render`: the objects that the operator would create for a job, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from llmbatch.api.job import LLMBatchJob
from llmbatch.cli.exits import INVALID
from llmbatch.cli.job_file import read_job
from llmbatch.core.job.admission import check_admission
from llmbatch.core.job.children import build_children
from llmbatch.core.job.snapshot import JobObservation, OperatorSettings
from llmbatch.errors import SpecError

NO_UID = "00000000-0000-0000-0000-000000000000"
HEADER = "# {job}: what the operator creates. Its token is random and not shown; its workers grow from here.\n"


def render(
    file: Annotated[Path, typer.Argument(help="Job file: YAML or JSON, one job.")],
    namespace: Annotated[str, typer.Option(help="Namespace of a job whose file names none.")] = "default",
    image: Annotated[str | None, typer.Option(help="Runtime image of a job whose file names none.")] = None,
) -> None:
    """Print the children of a job as YAML. Exit code 2 when the job is invalid."""
    settings = OperatorSettings() if image is None else OperatorSettings(image=image)
    try:
        job = read_job(file)
        children = children_of(job, namespace, settings)
    except SpecError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(INVALID) from error
    typer.echo(HEADER.format(job=job.metadata.name) + yaml.safe_dump_all(children, sort_keys=False), nl=False)


def children_of(job: LLMBatchJob, namespace: str, settings: OperatorSettings) -> list[dict[str, Any]]:
    """Return what the operator creates for a job whose file names no other namespace.

    Raises:
        SpecError: it creates nothing, since the job can never run or its podOverlay is not valid.
    """
    check_admission(job.spec)
    seen = JobObservation(
        name=job.metadata.name,
        namespace=job.metadata.namespace or namespace,
        uid=job.metadata.uid or NO_UID,
        labels=job.metadata.labels,
    )
    return build_children(seen, job.spec, settings)
