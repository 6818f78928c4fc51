"""`report.html`: one self-contained page about a run, readable in light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbatch.api.job import LLMBatchJob
from llmbatch.api.progress import PoolProgress, Progress
from llmbatch.cli.display import duration, stalled

if TYPE_CHECKING:
    from llmbatch.runtime.driver import RunResult

COLORS = ("#3b82c4", "#d9772b", "#3f9b5c", "#b5568f", "#8a7bc8", "#a08a2e", "#3a9ea5", "#c2564f")
"""One a stage: distinct on white and on black."""
INK = "#7f7f7f"
"""Stands for the page's text colour inside a plot; replaced by `currentColor`."""
SLOWEST = 15

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ name }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --line: #d9dce1; --soft: #5c636d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --line: #33373e; --soft: #9aa2ad; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.soft { color: var(--soft); } .warning { border-left: 4px solid #d9a12b; padding-left: .7rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.facts b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; } svg { width: 100%; height: auto; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .word { text-align: left; } .long { overflow-wrap: anywhere; min-width: 4rem; }
@media (max-width: 40rem) { th, td { padding: .25rem; } }
</style></head><body>
<h1>{{ name }}</h1>
<div class="soft">{{ state }} &middot; spec {{ progress.spec_hash }} &middot; attempt {{ progress.attempt }}</div>
{% if stalled %}<p class="warning">{{ stalled }}</p>{% endif %}
{% for warning in progress.warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% if error %}<p class="warning">{{ error }}</p>{% endif %}
<div class="facts">{% for label, value in facts %}<div><b>{{ value }}</b>{{ label }}</div>{% endfor %}</div>
{% for title, picture in plots %}<h2>{{ title }}</h2>{{ picture | safe }}{% endfor %}
<h2>Stages</h2>
<table><tr><th>stage</th><th class="word">engine</th><th class="word">model</th><th>rows</th><th>seconds a row</th>
<th class="word">last replicas, and why</th></tr>
{% for stage, pool, why in stages %}<tr><td>{{ stage.name }}</td><td class="word">{{ stage.engine }}</td>
<td class="word long">{{ stage.model.name if stage.model else "none" }}</td><td>{{ pool.rows_completed }}</td>
<td>{{ "%.4f" | format(pool.service_seconds_per_row) if pool.service_seconds_per_row else "&ndash;" | safe }}</td>
<td class="word long">{{ why or "&ndash;" | safe }}</td></tr>
{% endfor %}</table>
{% if shards %}<h2>Slowest shards</h2>
<p class="soft">The part file of a shard, below data/ of the output, begins with its name.</p>
<table><tr><th>shard</th><th>rows</th><th>failed</th><th>seconds</th><th>worker</th></tr>
{% for shard in shards %}<tr><td class="long">{{ shard.shard }}</td><td>{{ shard.rows }}</td><td>{{ shard.failed }}</td>
<td>{{ "%.3f" | format(shard.seconds) }}</td><td>{{ shard.worker }}</td></tr>{% endfor %}</table>{% endif %}
</body></html>
"""


def write_report(path: Path, job: LLMBatchJob, result: RunResult) -> None:
    """Write the report of a run. Prompts and rows are not in it."""
    import jinja2

    progress = result.progress
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    path.write_text(
        page.render(
            name=job.metadata.name,
            state=result.state,
            error=result.error,
            progress=progress,
            stalled=stalled(progress),
            facts=_facts(progress),
            plots=_plots(job, result.history) if len(result.history) > 1 else [],
            stages=[
                (stage, pool, _why(result, pool.name))
                for stage, pool in zip(job.spec.stages, progress.pools, strict=False)
            ],
            shards=result.shards[:SLOWEST],
        ),
        encoding="utf-8",
    )


def _facts(progress: Progress) -> list[tuple[str, str]]:
    rows = progress.rows
    return [
        ("rows", f"{rows.rows_completed:,}"),
        ("failed rows", f"{rows.rows_failed:,}"),
        ("tokens read", f"{rows.prompt_tokens:,}"),
        ("tokens generated", f"{rows.completion_tokens:,}"),
        ("time", duration(progress.elapsed_seconds)),
        ("shards", f"{progress.shards_committed:,}"),
        ("from earlier runs", f"{progress.shards_skipped:,}"),
    ]


def _why(result: RunResult, name: str) -> str:
    """Return why a stage had its last replicas: at the end it has none, because its rows are through."""
    looks = [pool for progress in [*result.history, result.progress] for pool in progress.pools if pool.name == name]
    wanted = [pool for pool in looks if pool.target]
    return (wanted or looks)[-1].explanation


def _plots(job: LLMBatchJob, history: Sequence[Progress]) -> list[tuple[str, str]]:
    stages = [stage.name for stage in job.spec.stages]
    rows = {
        "succeeded": [progress.rows.rows_completed - progress.rows.rows_failed for progress in history],
        "failed": [progress.rows.rows_failed for progress in history],
    }
    return [
        ("Row outcomes", _plot(history, rows, "rows")),
        ("Throughput", _by_stage(history, stages, lambda pool: pool.rows_per_second, "rows a second")),
        ("Queue before each stage", _by_stage(history, stages, lambda pool: pool.queued_rows, "rows")),
        ("Replicas that take work", _by_stage(history, stages, lambda pool: pool.ready, "replicas")),
        (
            "Replicas that start or restart",
            _by_stage(history, stages, lambda pool: pool.pending + pool.restarting, "replicas"),
        ),
    ]


def _by_stage(
    history: Sequence[Progress], stages: Sequence[str], value: Callable[[PoolProgress], float], unit: str
) -> str:
    found = [{pool.name: value(pool) for pool in progress.pools} for progress in history]
    lines = {name: [values.get(name, 0.0) for values in found] for name in stages}
    return _plot(history, lines, unit)


def _plot(history: Sequence[Progress], lines: dict[str, Any], unit: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with mpl.rc_context({**ink, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        axes = figure.subplots()
        seconds = [progress.elapsed_seconds for progress in history]
        for color, (name, values) in zip(COLORS, lines.items(), strict=False):
            axes.plot(seconds, values, label=name, color=color, drawstyle="steps-post")
        axes.set_xlim(0, seconds[-1])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_xlabel("seconds")
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper left", ncols=len(lines))
        picture = io.StringIO()
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    svg = picture.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
