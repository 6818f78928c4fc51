"""How many rows a task carries: a task costs the driver the same whether it has one shard or forty.

Where rows are fast, tasks of one shard each keep the driver busy and the replicas waiting for it; where they are slow,
a larger task only loses more with its replica.
"""

from __future__ import annotations

TASK_SECONDS = 0.5
"""Work of a task, where as much waits: some hundred times what the task itself costs."""
MOST_ROWS = 10_000
"""Rows of a task, at most."""
MOST_BYTES = 32 * 2**20
"""Bytes of a task's rows, at most: a block of them has to fit in the object store several times."""


def task_rows(service_seconds: float, queued_rows: int, replicas: int, row_bytes: float) -> int:
    """Return how many rows to put together for a task: no more than each replica finds waiting.

    Args:
        service_seconds: Replica-seconds a row takes.
        queued_rows: Rows that wait for the stage.
        replicas: Replicas that take work.
        row_bytes: Mean size of a row that arrives.
    """
    worth_it = TASK_SECONDS / service_seconds
    return int(min(worth_it, queued_rows / max(1, replicas), MOST_ROWS, MOST_BYTES / max(1.0, row_bytes)))
