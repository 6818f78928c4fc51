"""The exit codes of every verb."""

from __future__ import annotations

import typer
from rich.console import Console

from llmbatch.errors import InternalError, LLMBatchError, UserError

FAILED = 1
"""The same command can succeed later, or the job failed by its own policy."""
INVALID = 2
"""The user changes something."""
INTERNAL = 3
"""A contract inside llmbatch broke."""
INTERRUPTED = 130
"""Ctrl-C, as a shell says it."""


def exit_code(error: LLMBatchError) -> int:
    """Return the exit code that tells the caller of the command what an error asks of them."""
    if isinstance(error, UserError):
        return INVALID
    return INTERNAL if isinstance(error, InternalError) else FAILED


def stopped(error: LLMBatchError, console: Console) -> typer.Exit:
    """Print an error, and return the exit that it means."""
    console.print(f"[red]{type(error).__name__}[/red] ", end="")
    console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(exit_code(error))
