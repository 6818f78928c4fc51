"""What `llmbatch simulate` tells, as tables for the terminal and the page, and as one JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.table import Table

from llmbatch.cli.display import duration
from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.compare import WATERFALL, Summary
from llmbatch.simulator.oracle import Bounds
from llmbatch.simulator.planner import Estimate
from llmbatch.simulator.study import Plan

PARTS = ("useful", "load", "starved", "blocked", "redo", "unallocated")
"""Parts of the waterfall that get a column of their own."""
HOUR = 3600.0
MILLION = 1e6


@dataclass(frozen=True)
class Sheet:
    """A table: the first column is text, the others are numbers; a note says how to read it."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Table:
        """Return it for a terminal, without the note."""
        table = Table(title=self.heading, title_justify="left", box=None, padding=(0, 1))
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", header_style="dim", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table


def policies_sheet(summaries: Sequence[Summary], bounds: Bounds) -> Sheet:
    """Return the policies beside each other."""
    rows = [
        [
            summary.policy,
            f"{summary.rows:,.0f}",
            f"{summary.rows_per_second:.2f}",
            str(summary.efficiency),
            str(summary.least_efficiency),
            *(f"{summary.share(part):.1%}" for part in PARTS),
        ]
        for summary in summaries
    ]
    note = (
        f"E is the rows over those of a clairvoyant schedule: {bounds.clairvoyant:,.0f} here, "
        f"{bounds.clairvoyant / bounds.paid:.1%} of what the GPU-seconds pay for. Whole replicas that neither load nor "
        f"switch would reach {bounds.pinned / bounds.clairvoyant:.3f} of it."
    )
    return Sheet("Policies", ["policy", "rows", "rows/s", "E", "least", *PARTS], rows, note)


def plan_sheet(plans: Sequence[Plan], rows: int) -> Sheet:
    """Return time and money of some rows."""
    cells = []
    for plan in plans:
        hours = fmean(estimate.node_hours for estimate in plan.estimates)
        cost = fmean(estimate.cost for estimate in plan.estimates)
        cells.append(
            [
                f"{plan.capacity}, {plan.nodes:.3g} nodes on average",
                _span([estimate.seconds for estimate in plan.estimates]),
                _number(hours),
                _number(cost) if plan.priced else "-",
                _number(cost / rows * MILLION) if plan.priced else "-",
            ]
        )
    return Sheet(
        f"{rows:,} rows under {plans[0].policy}", ["capacity", "time", "node-hours", "cost", "a million rows"], cells
    )


def document(
    trace: Trace, summaries: Sequence[Summary], bounds: Bounds, plans: Sequence[Plan], rows: int | None
) -> dict[str, Any]:
    """Return everything as one JSON document: seconds, GPU-seconds, rows and shares. Infinity is null."""
    return {
        "trace": {
            "seconds": trace.end_seconds,
            "gpuHours": trace.gpu_seconds() / HOUR,
            "mostGpus": trace.most_gpus,
            "changes": len(trace.events) - 1,
        },
        "bounds": {
            "paid": bounds.paid,
            "loaded": bounds.loaded,
            "clairvoyant": bounds.clairvoyant,
            "pinned": bounds.pinned,
            "stepSeconds": bounds.step_seconds,
        },
        "policies": [_policy(summary) for summary in summaries],
        "plan": {"rows": rows, "capacities": [_plan(plan) for plan in plans]} if rows is not None else None,
    }


def _policy(summary: Summary) -> dict[str, Any]:
    return {
        "policy": summary.policy,
        "failed": summary.failed,
        "rows": summary.rows,
        "rowsPerSecond": summary.rows_per_second,
        "efficiency": _finite(summary.efficiency.share),
        "gpuHours": summary.gpu_hours,
        "shares": {part: summary.share(part) for part in WATERFALL},
        "seeds": [
            {"seed": outcome.seed, "rows": outcome.rows, "efficiency": _finite(outcome.efficiency.share)}
            for outcome in summary.outcomes
        ],
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "policy": plan.policy,
        "capacity": plan.capacity,
        "meanNodes": plan.nodes,
        "seeds": [_estimate(estimate, priced=plan.priced) for estimate in plan.estimates],
    }


def _estimate(estimate: Estimate, *, priced: bool) -> dict[str, Any]:
    return {
        "seconds": _finite(estimate.seconds),
        "nodeHours": _finite(estimate.node_hours),
        "cost": _finite(estimate.cost) if priced else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _span(seconds: Sequence[float]) -> str:
    if math.isinf(max(seconds)):
        return "never"
    low, high = duration(min(seconds)), duration(max(seconds))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"
