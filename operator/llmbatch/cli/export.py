"""`llmbatch export`: the parts of a complete output as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbatch.cli.exits import exit_code
from llmbatch.cli.job_file import read_job
from llmbatch.errors import LLMBatchError, OutputError


def export(
    file: Annotated[Path, typer.Argument(help="The job file.")],
    destination: Annotated[
        str,
        typer.Argument(
            help="The file to write. `.jsonl` gives lines, of a Parquet output too; `.gz` and `.zst` compress them."
        ),
    ],
    output: Annotated[str | None, typer.Option(help="Replaces output.uri of the file, as it did in the run.")] = None,
    any_order: Annotated[bool, typer.Option("--any-order", help="Do not keep the input's order.")] = False,
) -> None:
    """Merge a complete job's output into one file, in the input's order."""
    from llmbatch.runtime.export import export as merge
    from llmbatch.runtime.ledger import Ledger

    try:
        job = read_job(file, output)
        ledger = Ledger.find(job.spec.output)
        if ledger is None:
            raise OutputError.of("output.uri", job.spec.output.uri, "nothing was run there yet")
        result = merge(ledger, destination, ordered=not any_order)
    except LLMBatchError as error:
        typer.echo(f"{type(error).__name__} {error}", err=True)
        raise typer.Exit(exit_code(error)) from error
    typer.echo(f"{result.destination}: {result.rows:,} rows, {result.size:,} bytes")
