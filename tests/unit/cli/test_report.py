"""What a run's report says of its stages."""

from pathlib import Path

from jobs import job
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.cli.report import write_report
from llmbatch.runtime.driver import RunResult


def page(folder: Path, progress: Progress, *history: Progress) -> str:
    """Write the report of a run and return it."""
    result = RunResult(progress.state, progress, list(history), [], None, "")  # type: ignore[arg-type]
    write_report(folder / "report.html", job(folder), result)
    return (folder / "report.html").read_text(encoding="utf-8")


def of_stage(**values: object) -> Progress:
    return Progress(state="complete", pools=(PoolProgress.model_validate({"name": "say", **values}),))


def test_the_report_says_why_a_stage_had_its_last_replicas(tmp_path: Path) -> None:
    work = of_stage(target=3, explanation="3 of 8 GPUs: its share of the work (2 s a row)")
    end = of_stage(target=0, explanation="it gets no more rows")
    shown = page(tmp_path, end, work)
    assert "3 of 8 GPUs: its share of the work (2 s a row)" in shown
    assert "it gets no more rows" not in shown
    assert "it gets no more rows" in page(tmp_path, end)


def test_the_report_says_why_a_stage_cannot_run(tmp_path: Path) -> None:
    reason = "stage say needs 256 CPUs, and no node that stays has it"
    stalled = Progress(state="paused", stall_reason=reason)
    assert f"stalled: {reason}" in page(tmp_path, stalled)
    assert "stalled" not in page(tmp_path, stalled.model_copy(update={"state": "complete"}))
