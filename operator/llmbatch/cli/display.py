"""The live picture of a run: Progress documents in, a rich table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmbatch.api.progress import Progress

BAR_WIDTH, NARROW_BAR_WIDTH = 40, 24
WIDE = 100
"""Columns from which on a terminal shows all of a job in one line."""
PIPE_COLUMNS = 1000
"""Width of what is no terminal: nothing is folded there, so that `grep` finds it."""
_MINUTE = 60
_HOUR = 3600


def render(progress: Progress) -> RenderableType:
    """Return what a terminal shows for one Progress: the total, the stages, the warnings."""
    return Group(_Total(progress), _stages(progress), *_notes(progress))


def one_line(progress: Progress) -> str:
    """Return one line of plain text, for logs and pipes."""
    rows = progress.rows
    total = "?" if rows.rows_total is None else f"{rows.rows_total:,}"
    pools = "  ".join(
        f"{pool.name} {pool.ready}/{pool.target} q{pool.queued_rows} {pool.rows_per_second:.1f}/s"
        for pool in progress.pools
    )
    line = (
        f"{duration(progress.elapsed_seconds)}  {progress.state}  {rows.rows_completed:,}/{total} rows  "
        f"{rows.rows_failed:,} failed  {progress.rows_per_second:.1f} rows/s  {pools}"
    )
    reason = stalled(progress)
    return f"{line}  {reason}" if reason else line


def stalled(progress: Progress) -> str:
    """Return why a stage cannot run, in words; nothing where all can."""
    # The last look of a run that got through can be one at nodes that were going.
    return f"stalled: {progress.stall_reason}" if progress.stall_reason and progress.state != "complete" else ""


def plain_console() -> Console:
    """Return a console that folds at the width of a terminal, and not at all in a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def table(columns: Sequence[str], *, left: Sequence[str] = (), folding: str = "") -> Table:
    """Return a table without lines. Nothing in it is cut off: where it is too wide, one column folds.

    Args:
        columns: Their headers.
        left: Those that are not aligned to the right, besides the first.
        folding: The one that folds; left out, the first.
    """
    made = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        aligned_left = name in (columns[0], *left)
        folds = name == (folding or columns[0])
        made.add_column(name, justify="left" if aligned_left else "right", overflow="fold", no_wrap=not folds)
    return made


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


class _Total:
    """The bar and the figures of the whole: one line where it is wide enough, else two."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        rows, rates = self._rows(BAR_WIDTH if wide else NARROW_BAR_WIDTH), self._rates()
        for cells in [[*rows, *rates]] if wide else [rows, rates]:
            grid = Table.grid(padding=(0, 2))
            grid.add_row(*cells)
            yield grid

    def _rows(self, bar_width: int) -> list[RenderableType]:
        rows = self._progress.rows
        bar = ProgressBar(
            total=rows.rows_total or 1,
            completed=rows.rows_completed,
            width=bar_width,
            pulse=rows.rows_total is None,
        )
        total = "counting" if rows.rows_total is None else f"{rows.rows_total:,}"
        failed = Text(f"{rows.rows_failed:,} failed", style="red" if rows.rows_failed else "dim")
        return [Text(self._progress.state, style="bold"), bar, f"{rows.rows_completed:,} / {total} rows", failed]

    def _rates(self) -> list[RenderableType]:
        progress = self._progress
        return [
            f"{progress.rows_per_second:.1f} rows/s",
            f"{duration(progress.elapsed_seconds)} gone",
            f"{duration(progress.rows.estimated_remaining_seconds)} left",
        ]


def _stages(progress: Progress) -> Table:
    stages = table(("stage", "replicas", "starting", "queue", "in flight", "done", "rows/s", "tokens/s"))
    for pool in progress.pools:
        stages.add_row(
            pool.name,
            "-" if progress.state == "complete" else f"{pool.ready}/{pool.target}",
            str(pool.pending + pool.restarting),
            f"{pool.queued_rows:,}",
            f"{pool.in_flight_rows:,}",
            f"{pool.rows_completed:,}",
            f"{pool.rows_per_second:.1f}",
            f"{pool.tokens_per_second:,.0f}",
        )
    return stages


def _notes(progress: Progress) -> list[Text]:
    warnings = [stalled(progress), *progress.warnings]
    notes = [Text(f"! {warning}", style="yellow") for warning in warnings if warning]
    if progress.shards_skipped:
        notes.append(Text(f"{progress.shards_skipped:,} shards were committed before and are not read again"))
    return notes


def summary(progress: Progress, place: str) -> Table:
    """Return the table a run ends with."""
    rows = progress.rows
    table = Table(box=None, show_header=False, padding=(0, 2))
    time = duration(progress.elapsed_seconds)
    if progress.elapsed_seconds and not progress.shards_skipped:  # rows of earlier runs took no time of this one
        time += f", {rows.rows_completed / progress.elapsed_seconds:,.1f} rows/s with start-up"
    for name, value in (
        ("state", progress.state),
        ("rows", f"{rows.rows_completed:,}"),
        ("failed rows", f"{rows.rows_failed:,}"),
        ("tokens", f"{rows.prompt_tokens:,} read, {rows.completion_tokens:,} generated"),
        ("time", time),
        ("shards", f"{progress.shards_committed:,}, {progress.shards_skipped:,} of them from earlier runs"),
        ("output", place),
    ):
        table.add_row(Text(name, style="dim"), value)
    return table
