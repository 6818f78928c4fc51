import io
import subprocess
import sys

from rich.console import Console, RenderableType

from llmbatch.api.job import RowProgress
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.cli.display import duration, one_line, render, summary

PROGRESS = Progress(
    state="running",
    elapsed_seconds=75,
    rows=RowProgress(rows_total=1000, rows_completed=250, rows_failed=3, estimated_remaining_seconds=3700),
    rows_per_second=12.34,
    shards_skipped=7,
    pools=(PoolProgress(name="judge", target=3, ready=2, pending=1, queued_rows=44, rows_per_second=5.5),),
    warnings=("simulated engine: the output of judge is made up, no model runs",),
)


def test_the_terminal_shows_progress_stages_and_warnings() -> None:
    shown = _printed(render(PROGRESS))
    for expected in ("250 / 1,000 rows", "3 failed", "1h01m left", "judge", "2/3", "44", "made up", "7 shards"):
        assert expected in shown


def test_a_pipe_gets_one_line() -> None:
    assert one_line(PROGRESS).startswith("1m15s  running  250/1,000 rows  3 failed")
    assert "\n" not in one_line(PROGRESS)


def test_rows_of_earlier_runs_do_not_count_as_speed() -> None:
    assert "rows/s" not in _printed(summary(PROGRESS, "out"))
    assert "3.3 rows/s" in _printed(summary(PROGRESS.model_copy(update={"shards_skipped": 0}), "out"))


def test_a_complete_run_lacks_no_replica() -> None:
    assert "2/3" not in _printed(render(PROGRESS.model_copy(update={"state": "complete"})))


def test_a_terminal_and_a_pipe_say_why_a_stage_cannot_run() -> None:
    reason = "stage judge needs 256 CPUs, and no node that stays has it"
    stalled = PROGRESS.model_copy(update={"stall_reason": reason})
    assert f"! stalled: {reason}" in _printed(render(stalled))
    assert one_line(stalled).endswith(f"  stalled: {reason}")
    for well in (PROGRESS, stalled.model_copy(update={"state": "complete"})):
        assert "stalled" not in _printed(render(well)) + one_line(well)


def _printed(shown: RenderableType) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_durations() -> None:
    assert [duration(value) for value in (None, 4.6, 184, 3725)] == ["-", "5s", "3m04s", "1h02m"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, llmbatch.cli.main;"
        "print([m for m in ('ray', 'kopf', 'kubernetes', 'pyarrow', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
