"""`llmbatch status`: how the jobs of a namespace stand, or one of them in detail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmbatch.api.base import KIND
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.cli.cluster import Context, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.cli.display import duration

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient


def status(
    name: Annotated[str | None, typer.Argument(help="The job; left out, all of the namespace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the stored status as JSON.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show how jobs stand, by their status in the cluster."""

    async def work(kube: KubeClient, default: str) -> list[dict[str, Any]]:
        from llmbatch.cluster import paths

        if name is not None:
            return [await stored_job(kube, default, name)]
        listed = await kube.get(paths.collection(KIND, default))
        return list((listed or {}).get("items", ()))

    jobs = in_cluster(kubeconfig, context, namespace, work)
    if as_json:
        found = {job["metadata"]["name"]: job.get("status") or {} for job in jobs}
        typer.echo(json.dumps(found if name is None else found[name], indent=2))
    elif name is None:
        Console().print(_table(jobs))
    else:
        Console().print(describe(jobs[0]))


def describe(job: dict[str, Any]) -> RenderableType:
    """Return one job's status as a terminal shows it: the figures, then the conditions."""
    from llmbatch.cluster.projections import status_of

    stored = status_of(job.get("status") or {})
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(stored):
        facts.add_row(Text(label, style="dim"), value)
    conditions = Table(box=None, header_style="dim", padding=(0, 2))
    for column in ("condition", "status", "reason", "message"):
        conditions.add_column(column)
    for condition in stored.conditions:
        conditions.add_row(condition.type, condition.status, condition.reason, Text(condition.message))
    return Group(Text(f"{job['metadata']['namespace']}/{job['metadata']['name']}", style="bold"), facts, conditions)


def _facts(stored: LLMBatchJobStatus) -> list[tuple[str, str]]:
    rows, capacity, lost = stored.progress, stored.capacity, stored.preemptions
    facts = [("phase", stored.phase or "Pending")]
    if rows is not None:
        total = "?" if rows.rows_total is None else f"{rows.rows_total:,}"
        facts.append(("rows", f"{rows.rows_completed:,} of {total}, {rows.rows_failed:,} failed"))
        facts.append(("left", duration(rows.estimated_remaining_seconds)))
    if capacity is not None:
        ready = f"{capacity.workers_ready} of {capacity.workers_wanted} ready"
        facts.append(("workers", f"{ready}, {capacity.spot_ready} on spot, {capacity.gpus} GPUs"))
    if lost is not None:
        facts.append(("preemptions", str(lost.total)))
    if stored.attempt is not None:
        counts = f"{stored.failures} failures, {stored.interruptions} interruptions"
        facts.append(("attempt", f"{stored.attempt} ({counts})"))
    if stored.estimated_cost is not None:
        facts.append(("cost", f"{stored.estimated_cost:.2f}"))
    return facts


def _table(jobs: list[dict[str, Any]]) -> Table:
    from llmbatch.cluster.projections import status_of

    table = Table(box=None, header_style="dim", padding=(0, 2))
    for column in ("name", "phase", "rows", "workers", "preemptions", "left"):
        table.add_column(column, justify="left" if column in ("name", "phase") else "right")
    for job in jobs:
        facts = dict(_facts(status_of(job.get("status") or {})))
        row = (facts.get(column, "-") for column in ("phase", "rows", "workers", "preemptions", "left"))
        table.add_row(job["metadata"]["name"], *row)
    return table
