"""The `llmbatch` command. Heavy libraries load inside the verbs, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from llmbatch import __version__
from llmbatch.cli.cancel import cancel
from llmbatch.cli.clean import clean
from llmbatch.cli.crd import crd
from llmbatch.cli.explain import explain
from llmbatch.cli.export import export
from llmbatch.cli.logs import logs
from llmbatch.cli.operator import operator
from llmbatch.cli.render import render
from llmbatch.cli.retry_failed import retry_failed
from llmbatch.cli.run import run
from llmbatch.cli.signals import signals
from llmbatch.cli.simulate import simulate
from llmbatch.cli.status import status
from llmbatch.cli.submit import submit
from llmbatch.cli.validate import validate
from llmbatch.cli.watch import watch

app = typer.Typer(
    name="llmbatch",
    help="Exactly-once batch LLM inference. Exit codes: 0 complete, 1 failed, 2 invalid job or input, "
    "3 internal error, 130 interrupted (run the same command again to go on).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(validate)
app.command()(export)
app.command()(clean)
app.command()(simulate)
app.command()(render)
app.command()(explain)
app.command()(signals)
app.command()(crd)
app.command()(operator)
app.command()(submit)
app.command()(status)
app.command()(watch)
app.command()(logs)
app.command()(cancel)
app.command()(retry_failed)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that no verb has."""
