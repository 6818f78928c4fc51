"""`llmbatch status` and `watch`: readable in a terminal of 80 columns, and live where the caller may ask the head."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from controllerkit import NOW, condition, running_status
from llmbatch.api.job import LLMBatchJobStatus, RowProgress
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.cli import live as live_module
from llmbatch.cli.live import Live, LiveJob
from llmbatch.cli.status import overview, picture
from llmbatch.cluster.client import KubeClient
from llmbatch.cluster.proxied import ProxiedHead
from llmbatch.core.job.display import display_of
from llmbatch.core.job.times import rfc3339
from llmbatch.errors import ForbiddenError, LLMBatchError

MESSAGE = "No node takes a spot pod: node(s) had untolerated taint {example.com/spot: true}, Insufficient cpu"
NAMES = ("summarise", "translate-the-whole-corpus-of-november-2026")
PROGRESS = Progress(
    state="running",
    elapsed_seconds=3000,
    rows=RowProgress(rows_total=99_000, rows_completed=43_210, rows_failed=3, estimated_remaining_seconds=4800),
    rows_per_second=11.7,
    pools=(PoolProgress(name="summarise", target=5, ready=4, in_flight_rows=256, rows_completed=44_000),),
)


def stored(**fields: Any) -> LLMBatchJobStatus:
    rows = RowProgress(percentage=42.4, rows_total=99_000, rows_completed=42_000, estimated_remaining_seconds=4800)
    status = running_status(phase="Running", progress=rows, **fields)
    return status.model_copy(update={"display": display_of(status)})


def job(name: str = "summarise", status: LLMBatchJobStatus | None = None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "creationTimestamp": rfc3339(NOW - 3 * 3600)}
    return {"metadata": metadata, "status": (status or stored()).to_wire()}


def shown(what: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(what)
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    return lines


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_shows_every_job_whole(width: int) -> None:
    lines = shown(overview([job(name) for name in NAMES], NOW, wide=width >= 100), width)
    assert lines[1].split() == ["summarise", "Running", "42%", "42000/99000", "0/4", "1h20m", "3h"]
    assert "".join(line.split(" ")[0] for line in lines[2:]) == NAMES[1]


def test_a_job_without_a_status_is_pending() -> None:
    [_, line] = shown(overview([{"metadata": {"name": "new"}}], NOW, wide=False))
    assert line.split()[:2] == ["new", "Pending"]


def test_a_message_is_shown_whole() -> None:
    degraded = condition("Degraded", reason="Unschedulable").model_copy(update={"message": MESSAGE})
    status = stored()
    lines = shown(picture(job(status=status.model_copy(update={"conditions": (degraded,)})), Live(), NOW))
    assert MESSAGE in " ".join(" ".join(lines).split())


def test_live_figures_take_the_place_of_the_stored_ones() -> None:
    text = "\n".join(shown(picture(job(), Live(PROGRESS), NOW)))
    assert "43,210 / 99,000 rows" in text
    assert "42,000" not in text


def test_stored_figures_say_how_old_they_are_and_why() -> None:
    text = " ".join(" ".join(shown(picture(job(), Live(trouble="pods/proxy is forbidden"), NOW))).split())
    assert "42,000 of 99,000" in text
    assert "! these figures are 1m00s old: pods/proxy is forbidden" in text


class Asked:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Progress | LLMBatchError | None) -> None:
        self.times, self.answer = 0, answer
        monkeypatch.setattr(ProxiedHead, "find", self.find)

    async def find(self, *_: Any) -> Asked:
        return self

    async def progress(self) -> Progress:
        self.times += 1
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, LLMBatchError):
            raise self.answer
        assert self.answer is not None
        return self.answer


def ask(body: dict[str, Any]) -> Live:
    return asyncio.run(LiveJob(KubeClient.__new__(KubeClient), "team", "summarise").ask(body))


def test_the_head_is_asked_while_a_driver_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, PROGRESS)
    assert ask(job()) == Live(PROGRESS)
    ended = stored().model_copy(update={"conditions": (condition("Running", holds=False),)})
    assert ask(job(status=ended)) == Live()
    assert asked.times == 1


def test_why_a_head_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(monkeypatch, ForbiddenError("pods/proxy is forbidden"))
    assert ask(job()) == Live(trouble="pods/proxy is forbidden")
    Asked(monkeypatch, None)
    monkeypatch.setattr(live_module, "ANSWER_SECONDS", 0.01)
    assert "does not answer" in ask(job()).trouble
