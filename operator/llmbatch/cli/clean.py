"""`llmbatch clean`: what a complete job no longer needs, shown first and deleted when asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbatch.api.runspec import run_spec
from llmbatch.cli.exits import exit_code
from llmbatch.cli.job_file import read_job
from llmbatch.errors import LLMBatchError, OutputConflictError, OutputError

if TYPE_CHECKING:
    from llmbatch.api.job import LLMBatchJob
    from llmbatch.runtime.ledger import Ledger
    from llmbatch.runtime.records import Final

GRACE_SECONDS = 3600


def clean(
    file: Annotated[Path, typer.Argument(help="The job file.")],
    output: Annotated[str | None, typer.Option(help="Replaces output.uri of the file, as it did in the run.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is shown without it.")] = False,
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds since the job's end and since a file was written before it may go.")
    ] = GRACE_SECONDS,
    list_files: Annotated[bool, typer.Option("--list", help="Print the key of every file.")] = False,
) -> None:
    """Show, or delete, the part files that do not count: of attempts that lost, and of writes cut short.

    Only the output of a complete job is cleaned: before its end any attempt can still win. What `_FINAL` names is
    never touched.
    """
    try:
        job = read_job(file, output)
        ledger, final = _complete(job)
        _clean(ledger, final, delete=delete, grace=grace, list_files=list_files)
    except LLMBatchError as error:
        typer.echo(f"{type(error).__name__} {error}", err=True)
        raise typer.Exit(exit_code(error)) from error


def _complete(job: LLMBatchJob) -> tuple[Ledger, Final]:
    from llmbatch.runtime.ledger import Ledger

    output = job.spec.output
    ledger = Ledger.find(output)
    if ledger is None:
        raise OutputError.of("output.uri", output.uri, "nothing was run there yet")
    if ledger.spec_hash != (mine := run_spec(job).spec_hash):
        raise OutputConflictError.of(
            "output.uri",
            output.uri,
            f"it holds the output of job {ledger.mark.job} with spec {ledger.spec_hash}, and this job's spec is {mine}",
        )
    final = ledger.read_final()
    if final is None:
        raise OutputError.of(
            "output.uri", output.uri, "the job is not complete, and any attempt can still win: run it to its end"
        )
    if final.retry < ledger.retry:
        raise OutputError.of("output.uri", output.uri, "a retry of its failed rows is not complete: run it to its end")
    return ledger, final


def _clean(ledger: Ledger, final: Final, *, delete: bool, grace: int, list_files: bool) -> None:
    from llmbatch.runtime.garbage import Collected, delete_garbage, find_garbage

    now = datetime.now(UTC)
    garbage = list(find_garbage(ledger, final, now, grace))
    if list_files:
        for entry in garbage:
            typer.echo(entry.key)
    found = Collected().plus(garbage)
    typer.echo(
        f"{ledger.folder.uri}: complete since {final.finished_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"{final.shards:,} parts with {final.rows:,} rows are kept"
    )
    if (now - final.finished_at).total_seconds() < grace:
        typer.echo(f"nothing goes before the job's end is {grace:,} s ago (--grace)")
    elif not garbage:
        typer.echo("nothing to delete")
    elif delete:
        deleted = delete_garbage(ledger, iter(garbage))
        typer.echo(f"deleted {deleted.files:,} files, {deleted.size:,} bytes")
    else:
        typer.echo(f"{found.files:,} files, {found.size:,} bytes do not count: --delete deletes them")
