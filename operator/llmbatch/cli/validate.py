"""`llmbatch validate`: check job files without running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmbatch.cli.exits import INVALID
from llmbatch.cli.job_file import Problem, read_jobs
from llmbatch.errors import SpecError


def validate(
    files: Annotated[list[Path], typer.Argument(help="Job files: YAML or JSON, one or more jobs each.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as one JSON list.")] = False,
) -> None:
    """Check job files; the same rules as the custom resource's. Exit code 2 when one is invalid."""
    problems: list[Problem] = []
    valid = 0
    for file in files:
        try:
            for job in read_jobs(file):
                if isinstance(job, list):
                    problems += job
                else:
                    valid += 1
        except SpecError as error:
            problems.append(Problem(str(file), "file", str(error)))
    if as_json:
        typer.echo(json.dumps([{"file": p.file, "field": p.field, "message": p.message} for p in problems]))
    else:
        for problem in problems:
            typer.echo(str(problem), err=True)
        typer.echo(f"{valid} valid, {len(problems)} problems")
    raise typer.Exit(INVALID if problems else 0)
