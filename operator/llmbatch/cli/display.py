"""The live picture of a run: Progress documents in, a rich table out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmbatch.api.progress import Progress

BAR_WIDTH = 40
_MINUTE = 60
_HOUR = 3600


def render(progress: Progress) -> RenderableType:
    """Return what a terminal shows for one Progress: the total, the stages, the warnings."""
    return Group(_total(progress), _stages(progress), *_notes(progress))


def one_line(progress: Progress) -> str:
    """Return one line of plain text, for logs and pipes."""
    rows = progress.rows
    total = "?" if rows.rows_total is None else f"{rows.rows_total:,}"
    pools = "  ".join(
        f"{pool.name} {pool.ready}/{pool.target} q{pool.queued_rows} {pool.rows_per_second:.1f}/s"
        for pool in progress.pools
    )
    return (
        f"{duration(progress.elapsed_seconds)}  {progress.state}  {rows.rows_completed:,}/{total} rows  "
        f"{rows.rows_failed:,} failed  {progress.rows_per_second:.1f} rows/s  {pools}"
    )


def duration(seconds: float | None) -> str:
    """Return seconds as `1h02m`, `3m04s` or `5s`; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole >= _HOUR:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    if whole >= _MINUTE:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    return f"{whole}s"


def _total(progress: Progress) -> RenderableType:
    rows = progress.rows
    grid = Table.grid(padding=(0, 2))
    total = "counting" if rows.rows_total is None else f"{rows.rows_total:,}"
    bar = ProgressBar(
        total=rows.rows_total or 1,
        completed=rows.rows_completed,
        width=BAR_WIDTH,
        pulse=rows.rows_total is None,
    )
    failed = Text(f"{rows.rows_failed:,} failed", style="red" if rows.rows_failed else "dim")
    grid.add_row(
        Text(progress.state, style="bold"),
        bar,
        f"{rows.rows_completed:,} / {total} rows",
        failed,
        f"{progress.rows_per_second:.1f} rows/s",
        f"{duration(progress.elapsed_seconds)} gone",
        f"{duration(rows.estimated_remaining_seconds)} left",
    )
    return grid


def _stages(progress: Progress) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for name in ("stage", "replicas", "starting", "queue", "in flight", "done", "rows/s", "tokens/s"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for pool in progress.pools:
        table.add_row(
            pool.name,
            f"{pool.ready}/{pool.target}",
            str(pool.pending + pool.restarting),
            f"{pool.queued_rows:,}",
            f"{pool.in_flight_rows:,}",
            f"{pool.rows_completed:,}",
            f"{pool.rows_per_second:.1f}",
            f"{pool.tokens_per_second:,.0f}",
        )
    return table


def _notes(progress: Progress) -> list[Text]:
    notes = [Text(f"! {warning}", style="yellow") for warning in progress.warnings]
    if progress.shards_skipped:
        notes.append(Text(f"{progress.shards_skipped:,} shards were committed before and are not read again"))
    return notes


def summary(progress: Progress, place: str) -> Table:
    """Return the table a run ends with."""
    rows = progress.rows
    table = Table(box=None, show_header=False, padding=(0, 2))
    rate = (rows.rows_completed / progress.elapsed_seconds) if progress.elapsed_seconds else 0.0
    for name, value in (
        ("state", progress.state),
        ("rows", f"{rows.rows_completed:,}"),
        ("failed rows", f"{rows.rows_failed:,}"),
        ("tokens", f"{rows.prompt_tokens:,} read, {rows.completion_tokens:,} generated"),
        ("time", f"{duration(progress.elapsed_seconds)}, {rate:.1f} rows/s with start-up"),
        ("shards", f"{progress.shards_committed:,}, {progress.shards_skipped:,} of them from earlier runs"),
        ("output", place),
    ):
        table.add_row(Text(name, style="dim"), value)
    return table
