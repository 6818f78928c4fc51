"""`llmbatch signals`: the signs of preemption that this version knows."""

from __future__ import annotations

import typer

from llmbatch.core.preemption.manual import signals_markdown
from llmbatch.core.preemption.signals import SIGNALS


def signals() -> None:
    """Print the built-in table of preemption signals, as Markdown."""
    typer.echo(signals_markdown(SIGNALS), nl=False)
