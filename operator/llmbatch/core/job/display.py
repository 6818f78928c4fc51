"""The status in words, for the columns of `kubectl get lbj`: a column shows one field as it is and computes nothing."""

from __future__ import annotations

from llmbatch.api.job import DisplayStatus, LLMBatchJobStatus


def display_of(status: LLMBatchJobStatus) -> DisplayStatus | None:
    """Return what the columns show of a status; None while there is nothing to show."""
    rows, capacity = status.progress, status.capacity
    if rows is None and capacity is None:
        return None
    ended = status.finished_at is not None
    words = DisplayStatus()
    if rows is not None:
        total = "?" if rows.rows_total is None else str(rows.rows_total)
        left = rows.estimated_remaining_seconds
        words = words.model_copy(
            update={
                # Never 100% before the last row.
                "progress": "" if rows.percentage is None else f"{int(rows.percentage)}%",
                "rows": f"{rows.rows_completed}/{total}",
                "eta": "" if left is None or ended else duration(left),
            }
        )
    if capacity is not None and not ended:
        ready = capacity.workers_ready
        words = words.model_copy(
            update={
                "workers": f"{ready}/{capacity.workers_wanted}",
                "spot": f"{100 * capacity.spot_ready // ready}%" if ready else "",
            }
        )
    return words


def duration(seconds: int) -> str:
    """Return a duration in its two largest units, as kubectl writes one: `45s`, `12m30s`, `3h20m`, `2d4h`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [(days, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"
