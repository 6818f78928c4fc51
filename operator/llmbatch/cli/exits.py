"""The exit codes of every verb, and errors on the way to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from llmbatch.errors import InternalError, LLMBatchError, OutputError, UserError

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


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Let the block write a file that an option names.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError.of(option, str(path), f"a file that can be written ({error.strerror})") from error
