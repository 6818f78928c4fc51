"""`llmbatch simulate`: policies on a capacity trace in virtual time, against the best that was possible."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from llmbatch.cli.display import duration
from llmbatch.cli.exits import FAILED, stopped, writing
from llmbatch.core.stages.delays import LOSS_SECONDS, PROCESS_START_SECONDS, Delays
from llmbatch.errors import InputError, LLMBatchError

if TYPE_CHECKING:
    from llmbatch.cli.simulate_tables import Sheet
    from llmbatch.core.capacity.trace import Trace
    from llmbatch.simulator.compare import Summary
    from llmbatch.simulator.oracle import Bounds
    from llmbatch.simulator.study import Plan
    from llmbatch.simulator.virtual import Workload

WIDTH = 110


class Policy(StrEnum):
    """What `--policy` takes."""

    OURS = "ours"
    RAY_RESERVATION = "ray-reservation"
    FIXED = "fixed"
    RESTART_ALL = "restart-all"


class Victims(StrEnum):
    """What `--victims` takes."""

    RANDOM = "random"
    NEWEST = "newest"


class _Prices(NamedTuple):
    spot: float | None
    on_demand: float | None
    on_demand_nodes: int | None


class _Study(NamedTuple):
    """Everything that is shown."""

    name: str
    trace: Trace
    workload: Workload
    bounds: Bounds
    summaries: Sequence[Summary]
    plans: Sequence[Plan]
    rows: int | None


def simulate(
    trace: Annotated[Path, typer.Option(help="The capacity trace. Formats: docs/simulate.md.")],
    policy: Annotated[
        list[Policy] | None, typer.Option(help="A policy to simulate; again for more. All if unset.")
    ] = None,
    service: Annotated[str, typer.Option(help="Seconds a replica needs for a batch, one number a stage.")] = "1,3,0.5",
    load: Annotated[
        str, typer.Option(help="Seconds in which a new replica loads its model: one number, or one a stage.")
    ] = "60",
    start: Annotated[
        float, typer.Option(min=0, help="Seconds in which the process of a replica starts, before it loads.")
    ] = PROCESS_START_SECONDS,
    gpus: Annotated[str, typer.Option(help="GPUs a replica: one number, or one a stage.")] = "1",
    batch_rows: Annotated[int, typer.Option(min=1, max=65_536, help="Rows of a batch.")] = 16,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each node of the trace.")] = 1,
    notice: Annotated[float, typer.Option(min=0, help="Seconds between the notice and the loss of a node.")] = 0.0,
    loss: Annotated[float, typer.Option(min=0, help="Seconds until a lost node is noticed.")] = LOSS_SECONDS,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each policy, each with other luck.")] = 3,
    victims: Annotated[Victims, typer.Option(help="Who leaves where the trace only counts nodes.")] = Victims.RANDOM,
    hours: Annotated[float | None, typer.Option(help="Only the first hours of the trace.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Plan this many rows: how long, and with prices for how much.")
    ] = None,
    price_spot: Annotated[float | None, typer.Option(min=0, help="Price of a spot node an hour.")] = None,
    price_on_demand: Annotated[float | None, typer.Option(min=0, help="Price of an on-demand node an hour.")] = None,
    on_demand_nodes: Annotated[
        int | None, typer.Option(min=1, help="On-demand nodes to plan with; the trace's mean if unset.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with pictures here.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write an SVG of the first policy's GPUs and of every policy's rows here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what policies make of a capacity trace, in virtual time: a day takes seconds.

    E is the rows committed over those of a clairvoyant schedule, which no policy can beat. Exit code 1 when a run is
    no measurement: E above 1, or GPU-seconds that nobody accounts for.
    """
    console = _console(stderr=as_json)
    try:
        traces = _traces(trace, gpus_per_node, seeds, victims, hours)
        delays = Delays(start_seconds=start, loss_seconds=loss)
        workload = _workload(service, load, gpus, gpus_per_node, batch_rows, notice, delays)
        prices = _Prices(price_spot, price_on_demand, on_demand_nodes)
        study = _study(trace.name, traces, workload, policy or list(Policy), rows, prices)
        _show(study, console, as_json=as_json)
        if report is not None:
            with writing("--report", report):
                _write(report, study)
            console.print(f"report: {report}")
        if picture is not None:
            with writing("--picture", picture):
                _draw(picture, study)
            console.print(f"picture: {picture}")
    except LLMBatchError as error:
        raise stopped(error, console) from error
    raise typer.Exit(FAILED if any(summary.failed for summary in study.summaries) else 0)


def _console(*, stderr: bool) -> Console:
    """Return a console; one that is no terminal is wide enough for the tables."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def _traces(file: Path, gpus_per_node: int, seeds: int, victims: Victims, hours: float | None) -> list[Trace]:
    """Return the trace once a seed: where it only counts nodes, each seed has victims of its own."""
    from llmbatch.simulator.trace import read_trace

    found = [read_trace(file, gpus_per_node=gpus_per_node, seed=seed, victims=victims.value) for seed in range(seeds)]
    if found[0].end_seconds <= 0:
        raise InputError.of(str(file), "no length", "a trace that ends after 0 s: repeat the last count at its end")
    if hours is not None:
        longest = found[0].end_seconds / 3600
        if not 0 < hours <= longest:
            raise InputError.of("--hours", hours, f"more than 0, at most {longest:.4g}, the trace's length")
        found = [trace.slice(0, hours * 3600) for trace in found]
    if not found[0].most_gpus:
        raise InputError.of(str(file), "no nodes", "a trace with a node at some time: there is nothing to compare")
    return found


def _workload(
    service: str, load: str, gpus: str, gpus_per_node: int, batch_rows: int, notice: float, delays: Delays
) -> Workload:
    from llmbatch.simulator.virtual import SimulatedStage, Workload

    services = _numbers("--service", service, None)
    loads = _numbers("--load", load, len(services))
    sizes = _numbers("--gpus", gpus, len(services))
    if any(size != int(size) for size in sizes):
        raise InputError.of("--gpus", gpus, "whole numbers")
    if max(sizes) > gpus_per_node:
        raise InputError.of("--gpus", gpus, f"at most --gpus-per-node, {gpus_per_node}: a replica is on one node")
    stages = [
        SimulatedStage(f"stage {number}", seconds, loading, int(size))
        for number, (seconds, loading, size) in enumerate(zip(services, loads, sizes, strict=True), 1)
    ]
    return Workload(stages, batch_rows, notice_seconds=notice, delays=delays)


def _numbers(option: str, text: str, count: int | None) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError.of(option, text, "numbers joined by commas") from error
    if not all(math.isfinite(number) for number in found):
        raise InputError.of(option, text, "finite numbers")
    if count is None or len(found) == count:
        return found
    if len(found) == 1:
        return found * count
    raise InputError.of(option, text, f"one number, or {count}: one for each of --service")


def _study(
    name: str,
    traces: Sequence[Trace],
    workload: Workload,
    policies: Sequence[Policy],
    rows: int | None,
    prices: _Prices,
) -> _Study:
    from llmbatch.simulator.compare import Summary
    from llmbatch.simulator.oracle import bounds
    from llmbatch.simulator.study import oracle_stages, run

    trace = traces[0]
    found = bounds(trace, oracle_stages(workload, trace.most_gpus))
    summaries = [
        Summary(
            policy.value,
            [run(policy.value, of_seed, workload, seed, found.clairvoyant) for seed, of_seed in enumerate(traces)],
        )
        for policy in dict.fromkeys(policies)
    ]
    best = max(summaries, key=lambda summary: summary.rows).policy
    plans = [] if rows is None else _plans(best, traces, workload, rows, prices)
    return _Study(name, trace, workload, found, summaries, plans, rows)


def _plans(policy: str, traces: Sequence[Trace], workload: Workload, rows: int, prices: _Prices) -> list[Plan]:
    from llmbatch.simulator.study import constant, plan

    trace = traces[0]
    mean = trace.gpu_seconds() / trace.end_seconds / trace.gpus_per_node
    nodes = prices.on_demand_nodes or max(1, round(mean))
    steady = [constant(nodes, trace)] * len(traces)
    return [
        plan(policy, "spot", traces, workload, rows, prices.spot),
        plan(policy, "on-demand", steady, workload, rows, prices.on_demand),
    ]


def _sheets(study: _Study) -> list[Sheet]:
    from llmbatch.cli.simulate_tables import plan_sheet, policies_sheet

    sheets = [policies_sheet(study.summaries, study.bounds)]
    return sheets if study.rows is None else [*sheets, plan_sheet(study.plans, study.rows)]


def _warnings(study: _Study) -> list[str]:
    return [
        f"{summary.policy}: not a measurement (E {summary.efficiency}); rows, bound or accounting are wrong"
        for summary in study.summaries
        if summary.failed
    ]


def _show(study: _Study, console: Console, *, as_json: bool) -> None:
    from llmbatch.cli.simulate_tables import document

    if as_json:
        found = document(study.trace, study.summaries, study.bounds, study.plans, study.rows)
        typer.echo(json.dumps(found))
    else:
        console.print(_subtitle(study), highlight=False, soft_wrap=True)
        for sheet in _sheets(study):
            console.print()
            console.print(sheet.rich())
            if sheet.note:
                console.print(sheet.note, style="dim", highlight=False)
    for warning in _warnings(study):
        console.print(warning, style="red", markup=False)


def _subtitle(study: _Study) -> str:
    trace, stages = study.trace, study.workload.stages
    mean = trace.gpu_seconds() / trace.end_seconds
    service = ", ".join(f"{stage.service_seconds:g}" for stage in stages)
    load = ", ".join(f"{stage.load_seconds:g}" for stage in stages)
    return (
        f"{study.name}: {duration(trace.end_seconds)}, {mean:.1f} GPUs on average, {trace.most_gpus} at most, "
        f"{len(trace.events) - 1} changes. {len(stages)} stages: {service} s a batch of "
        f"{study.workload.batch_rows} rows, {study.workload.delays.start_seconds:g} s to start and {load} s to load, "
        f"{study.workload.notice_seconds:g} s notice."
    )


def _write(path: Path, study: _Study) -> None:
    from llmbatch.cli.simulate_page import write_page

    best = max(study.summaries, key=lambda summary: summary.rows)
    facts = [
        ("GPU-hours there", f"{study.trace.gpu_seconds() / 3600:,.1f}"),
        ("rows of the clairvoyant bound", f"{study.bounds.clairvoyant:,.0f}"),
        (f"rows, {best.policy}", f"{best.rows:,.0f}"),
        (f"E, {best.policy}", str(best.efficiency)),
    ]
    write_page(
        path,
        title=f"Simulated: {study.name}",
        subtitle=_subtitle(study),
        warnings=_warnings(study),
        facts=facts,
        sheets=_sheets(study),
        summaries=study.summaries,
    )


def _draw(path: Path, study: _Study) -> None:
    """Draw the runs of the first seed."""
    from llmbatch.cli.simulate_pictures import spot_picture

    runs = {summary.policy: summary.outcomes[0].series for summary in study.summaries}
    path.write_text(spot_picture(runs, study.bounds.clairvoyant), encoding="utf-8")
