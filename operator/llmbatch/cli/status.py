"""`llmbatch status`: how the jobs of a namespace stand, or one of them in detail."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmbatch.api.base import KIND
from llmbatch.api.job import DisplayStatus, LLMBatchJobStatus
from llmbatch.cli.cluster import Context, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.cli.display import WIDE, duration, plain_console, render, table
from llmbatch.cli.live import Live, LiveJob
from llmbatch.core.job.display import duration as age_of
from llmbatch.core.job.times import since

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

FRESH_SECONDS = 20.0
"""Figures older than this are said to be old: a running job is looked at every ten seconds."""


def status(
    name: Annotated[str | None, typer.Argument(help="The job; left out, all of the namespace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the stored status as JSON.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show how jobs stand.

    A list shows the stored status, whose rows lag by up to five minutes. Of one job that runs the figures come from its
    head through the API server's proxy, where your rights allow that.
    """

    async def work(kube: KubeClient, default: str) -> tuple[str, list[dict[str, Any]], Live]:
        from llmbatch.cluster import paths

        if name is None:
            listed = await kube.get(paths.collection(KIND, default))
            return default, list((listed or {}).get("items", ())), Live()
        job = await stored_job(kube, default, name)
        return default, [job], Live() if as_json else await LiveJob(kube, default, name).ask(job)

    where, jobs, live = in_cluster(kubeconfig, context, namespace, work)
    if as_json:
        found = {job["metadata"]["name"]: job.get("status") or {} for job in jobs}
        typer.echo(json.dumps(found if name is None else found[name], indent=2))
        return
    console = plain_console()
    if name is not None:
        console.print(picture(jobs[0], live, time.time()))
    elif jobs:
        console.print(overview(jobs, time.time(), wide=console.width >= WIDE))
    else:
        typer.echo(f"no LLMBatchJob in namespace {where}", err=True)


def overview(jobs: list[dict[str, Any]], now: float, *, wide: bool) -> Table:
    """Return a line for each job, in the words of `kubectl get lbj`; where it is not wide, without spot and losses."""
    from llmbatch.cluster.projections import status_of

    columns = ["progress", "rows", "workers", *(("spot", "preemptions") if wide else ()), "eta"]
    shown = table(["name", "phase", *columns, "age"], left=("name", "phase"))
    for job in jobs:
        stored = status_of(job.get("status") or {})
        words = stored.display or DisplayStatus()
        lost = "" if stored.preemptions is None else str(stored.preemptions.total)
        cells = {**words.model_dump(), "preemptions": lost}
        age = age_of(int(since(now, job["metadata"].get("creationTimestamp"))))
        shown.add_row(job["metadata"]["name"], stored.phase or "Pending", *(cells[key] for key in columns), age)
    return shown


def picture(job: dict[str, Any], live: Live, now: float) -> RenderableType:
    """Return one job as a terminal shows it: its figures, live where the head gave them, then its conditions."""
    from llmbatch.cluster.projections import status_of

    stored = status_of(job.get("status") or {})
    title = Text(f"{job['metadata']['namespace']}/{job['metadata']['name']}  {stored.phase or 'Pending'}", style="bold")
    if live.progress is not None:
        return Group(title, render(live.progress), _grid(_facts(stored)), "", _conditions(stored))
    parts: list[RenderableType] = [title, _grid([*_rows(stored), *_facts(stored)])]
    age = since(now, stored.updated_at)
    if live.trouble and stored.progress is not None and age >= FRESH_SECONDS:
        parts.append(Text(f"! these figures are {duration(age)} old: {live.trouble}", style="yellow"))
    return Group(*parts, "", _conditions(stored))


def _grid(facts: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for label, value in facts:
        grid.add_row(Text(label, style="dim"), value)
    return grid


def _conditions(stored: LLMBatchJobStatus) -> Table:
    columns = ("condition", "status", "reason", "message")
    conditions = table(columns, left=columns, folding="message")
    for condition in stored.conditions:
        conditions.add_row(condition.type, condition.status, condition.reason, Text(condition.message))
    return conditions


def _rows(stored: LLMBatchJobStatus) -> list[tuple[str, str]]:
    rows = stored.progress
    if rows is None:
        return []
    total = "?" if rows.rows_total is None else f"{rows.rows_total:,}"
    facts = [("rows", f"{rows.rows_completed:,} of {total}, {rows.rows_failed:,} failed")]
    if stored.finished_at is None:
        facts.append(("left", duration(rows.estimated_remaining_seconds)))
        facts += [
            (stage.name, f"{stage.ready}/{stage.target} replicas, {stage.rows_per_second:.1f} rows/s")
            for stage in stored.stages
        ]
    return facts


def _facts(stored: LLMBatchJobStatus) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    capacity, lost = stored.capacity, stored.preemptions
    if capacity is not None:
        ready = f"{capacity.workers_ready} of {capacity.workers_wanted} ready"
        facts.append(("workers", f"{ready}, {capacity.spot_ready} on spot, {capacity.gpus} GPUs"))
    if lost is not None:
        facts.append(("preemptions", str(lost.total)))
    if stored.attempt is not None:
        facts.append(("attempt", f"{stored.attempt} ({stored.failures} failed, {stored.interruptions} interrupted)"))
    if stored.estimated_cost is not None:
        facts.append(("cost", f"{stored.estimated_cost:.2f}"))
    return facts
