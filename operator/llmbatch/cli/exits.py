"""The exit codes that verbs without a cluster share."""

from __future__ import annotations

from llmbatch.errors import InternalError, LLMBatchError, UserError

FAILED = 1
"""The same command can succeed later, or the job failed by its own policy."""
INVALID = 2
"""The user changes something."""
INTERNAL = 3
"""A contract inside llmbatch broke."""


def exit_code(error: LLMBatchError) -> int:
    """Return the exit code that tells the caller of the command what an error asks of them."""
    if isinstance(error, UserError):
        return INVALID
    return INTERNAL if isinstance(error, InternalError) else FAILED
