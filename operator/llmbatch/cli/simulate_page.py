"""The page `llmbatch simulate --report` writes: self-contained, readable in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbatch.cli.simulate_pictures import rows_picture, run_picture, waterfall_picture
from llmbatch.cli.simulate_tables import Sheet
from llmbatch.simulator.compare import WATERFALL, Summary

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --line: #d9dce1; --soft: #5c636d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --line: #33373e; --soft: #9aa2ad; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.soft { color: var(--soft); } .warning { border-left: 4px solid #d9a12b; padding-left: .7rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.facts b { display: block; font-size: 1.3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } svg { width: 100%; height: auto; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
</style></head><body>
<h1>{{ title }}</h1>
<div class="soft">{{ subtitle }}</div>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
<div class="facts">{% for label, value in facts %}<div><b>{{ value }}</b>{{ label }}</div>{% endfor %}</div>
{% for sheet in sheets %}<h2>{{ sheet.heading }}</h2><div class="wide">
<table><tr>{% for column in sheet.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in sheet.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% if sheet.note %}<p class="soft">{{ sheet.note }}</p>{% endif %}{% endfor %}
{% for heading, picture in pictures %}<h2>{{ heading }}</h2>{{ picture | safe }}{% endfor %}
</body></html>
"""


def write_page(
    path: Path,
    *,
    title: str,
    subtitle: str,
    warnings: Sequence[str],
    facts: Sequence[tuple[str, str]],
    sheets: Sequence[Sheet],
    summaries: Sequence[Summary],
) -> None:
    """Write the page. The pictures over time are of the first seed's runs."""
    import jinja2

    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    text = page.render(
        title=title, subtitle=subtitle, warnings=warnings, facts=facts, sheets=sheets, pictures=_pictures(summaries)
    )
    path.write_text(text, encoding="utf-8")


def _pictures(summaries: Sequence[Summary]) -> list[tuple[str, str]]:
    first = {summary.policy: summary.outcomes[0] for summary in summaries}
    bound = next(iter(first.values())).bound
    shares = {summary.policy: {part: summary.share(part) for part in WATERFALL} for summary in summaries}
    return [
        ("Where the GPU-seconds went", waterfall_picture(shares)),
        ("Rows committed", rows_picture({policy: outcome.series for policy, outcome in first.items()}, bound)),
        *((f"{policy}: who has the GPUs", run_picture(outcome.series)) for policy, outcome in first.items()),
    ]
