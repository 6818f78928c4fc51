"""When failed rows make a job fail."""

from __future__ import annotations

ENOUGH_ROWS = 1_000
"""Rows a rate needs before it can stop a job whose number of rows is not known yet."""


def error_rate_exceeded(
    failed: int, completed: int, total: int | None, max_error_rate: float, *, finished: bool
) -> bool:
    """Tell whether more rows failed than the policy allows.

    With the total known, the job fails as soon as the allowed number is passed, since no later row can undo
    that. While it is unknown, the rate so far counts, from `ENOUGH_ROWS` completed rows on.

    Args:
        failed: Rows committed with an error.
        completed: Rows committed, failed ones included.
        total: Rows of the input, None while unknown.
        max_error_rate: Share of rows that may fail, 0 to 1.
        finished: Whether `completed` is all there is.
    """
    if finished:
        total = completed
    if total is not None:
        return failed > max_error_rate * total
    return completed >= ENOUGH_ROWS and failed > max_error_rate * completed
