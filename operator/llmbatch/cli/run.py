"""`llmbatch run`: a whole job in this process, with an embedded Ray."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from llmbatch.api.job import LLMBatchJob
from llmbatch.api.progress import Progress
from llmbatch.api.runspec import RunSpec, run_spec
from llmbatch.cli.display import one_line, render, summary
from llmbatch.cli.exits import FAILED, INTERRUPTED, stopped, writing
from llmbatch.cli.job_file import read_job
from llmbatch.core.capacity.trace_formats import parse_trace
from llmbatch.errors import InputError, LLMBatchError
from llmbatch.runtime.embedded import LocalCapacity, RunOptions

if TYPE_CHECKING:
    from llmbatch.runtime.driver import RunResult

EXIT_CODES = {"complete": 0, "failed": FAILED, "stopped": INTERRUPTED}
LINE_SECONDS = 5.0
"""Without a terminal, a line is printed this often."""


OutputUri = Annotated[str | None, typer.Option(help="Replaces output.uri of the file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line: progress, then the result.")]
Report = Annotated[Path | None, typer.Option(help="Write an HTML report here.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPU cores the embedded Ray may hand out.")]
ObjectStoreMb = Annotated[int, typer.Option(min=100, help="Object store of the embedded Ray, MB.")]


def run(
    file: Annotated[Path, typer.Argument(help="The job file.")],
    output: OutputUri = None,
    as_json: AsJson = False,
    report: Report = None,
    cpus: Cpus = None,
    object_store_mb: ObjectStoreMb = 512,
    capacity: Annotated[
        Path | None,
        typer.Option(help="A capacity trace: logical GPU nodes come and go with it. Formats: docs/simulate.md."),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="With --capacity: GPUs of a node.")] = 1,
    notice: Annotated[
        float | None, typer.Option(min=0, help="With --capacity: seconds of notice before a node goes; none if unset.")
    ] = None,
) -> None:
    """Run a job here, and go on where an earlier run of it stopped.

    Relative paths in the job are relative to the current folder. Ctrl-C stops after the shards that are nearly
    through; a second one stops at once. Either way nothing that is committed is lost.
    """
    console = Console(stderr=as_json)
    try:
        job = read_job(file, output)
        local = None if capacity is None else _local_capacity(capacity, gpus_per_node, notice)
        options = RunOptions(cpus=cpus, object_store_mb=object_store_mb, capacity=local)
        run_here(job, run_spec(job), console, options, report=report, as_json=as_json)
    except LLMBatchError as error:
        raise stopped(error, console) from error


def run_here(
    job: LLMBatchJob,
    attempt: RunSpec,
    console: Console,
    options: RunOptions,
    *,
    report: Path | None,
    as_json: bool,
) -> None:
    """Run one attempt at a job in this process, showing it, and end with the exit code it has.

    Raises:
        LLMBatchError: as `driver.run`.
        typer.Exit: it ended.
    """
    result = _run(attempt, console, options, as_json=as_json)
    _tell(job, result, console, as_json=as_json)
    if report is not None:
        from llmbatch.cli.report import write_report

        with writing("--report", report):
            write_report(report, job, result)
        console.print(f"  report: {report}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_CODES[result.state])


def _local_capacity(file: Path, gpus_per_node: int, notice: float | None) -> LocalCapacity:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.of("--capacity", str(file), f"a text file that can be read ({error})") from error
    return LocalCapacity(parse_trace(text, str(file), gpus_per_node=gpus_per_node), notice)


def _run(attempt: RunSpec, console: Console, options: RunOptions, *, as_json: bool) -> RunResult:
    from llmbatch.runtime import driver

    stop = threading.Event()
    with _interrupts(stop, console), _shown(console, as_json=as_json) as show:
        return driver.run(attempt, on_progress=show, stop=stop, options=options)


@contextmanager
def _interrupts(stop: threading.Event, console: Console) -> Iterator[None]:
    def first(*_: Any) -> None:
        console.print("stopping: Ctrl-C again to stop at once")
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(console: Console, *, as_json: bool) -> Iterator[Callable[[Progress], None]]:
    if as_json:
        lines = sys.stdout
        # Ray prints what a raylet reports to stdout, which is for JSON alone.
        with redirect_stdout(sys.stderr):
            yield lambda progress: typer.echo(json.dumps({"progress": progress.to_wire()}), file=lines)
    elif console.is_terminal:
        with Live("looking at the job, and starting Ray", console=console, auto_refresh=False) as live:
            yield lambda progress: live.update(render(progress), refresh=True)
    else:
        yield _Lines(console).show


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        if progress.elapsed_seconds >= self._next:
            self._next = progress.elapsed_seconds + LINE_SECONDS
            self._console.print(one_line(progress), soft_wrap=True, highlight=False)


def _tell(job: LLMBatchJob, result: RunResult, console: Console, *, as_json: bool) -> None:
    if as_json:
        document = {"state": result.state, "error": result.error, "final": result.final}
        typer.echo(json.dumps({"result": document, "progress": result.progress.to_wire()}))
        return
    # The live display has shown them, and stands above.
    for warning in () if console.is_terminal else result.progress.warnings:
        console.print(f"[yellow]! {warning}[/yellow]")
    if result.error:
        console.print(result.error, style="red", markup=False)
    if result.state == "complete" and not result.shards:
        console.print("already complete: nothing to do")
    if result.state == "stopped":
        console.print("stopped: run the same command again to go on")
    console.print(summary(result.progress, job.spec.output.uri))
