"""Draw the Grafana dashboard from a Prometheus, where there is no Grafana: the same panels, queries and places.

python docs/draw_dashboard.py http://127.0.0.1:9090 --minutes 5 docs/dashboard.png
"""

# ruff: noqa: INP001

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[1] / "charts/llmbatch/files/dashboard.json"
POINTS = 240
WIDTH, ROW_HEIGHT, DOTS = 15.0, 0.32, 110
"""Inches of the picture's width, and of one row of Grafana's grid; dots an inch."""
MOST_LEGENDS = 6
UNITS = {"s": "s", "bytes": "B", "percent": "%", "rowsps": "/s", "reqps": "/s"}


def ask(prometheus: str, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """Return the series of a range query.

    Raises:
        OSError: Prometheus does not answer, or not to this query.
    """
    arguments = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": step})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{arguments}", timeout=30) as answer:  # noqa: S310
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


def sent(query: str, window: str) -> str:
    """Return a query as Grafana sends it: every namespace and job, and rates over `window`."""
    return query.replace("$__rate_interval", window).replace("$namespace", ".+").replace("$job", ".+")


def draw(prometheus: str, start: float, end: float, window: str, to: Path) -> None:
    """Draw every panel over a span of time (Unix seconds), rates over `window`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(WIDTH, rows * ROW_HEIGHT), dpi=DOTS)
    for panel in panels:
        place = panel["gridPos"]
        top, left = 1 - place["y"] / rows, place["x"] / 24
        if panel["type"] == "row":
            figure.text(0.005, top - 0.6 / rows, panel["title"], fontsize=15, weight="bold", va="center")
            continue
        box = (left + 0.04, top - (place["h"] - 1.4) / rows, place["w"] / 24 - 0.05, (place["h"] - 3.2) / rows)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=11, loc="left")
        series = [
            (_legend(target["legendFormat"], found["metric"]), found["values"])
            for target in panel["targets"]
            for found in ask(prometheus, sent(target["expr"], window), start, end, (end - start) / POINTS)
        ]
        _fill(axes, panel, series, start, end)
    figure.savefig(to)
    pyplot.close(figure)


def _fill(axes: Any, panel: dict[str, Any], series: list[tuple[str, Any]], start: float, end: float) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.tick_params(labelsize=8)
    unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"], "")
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    if panel["type"] == "bargauge":
        for place, (name, values) in enumerate(series):
            axes.barh(place, float(values[-1][1]), height=0.5)
            axes.text(1, place, f"{name} {float(values[-1][1]):.0f} {unit}", fontsize=9, va="center")
        axes.set(xlim=(0, 100), ylim=(-1, max(1, len(series))), yticks=[])
        return
    custom = panel["fieldConfig"]["defaults"]["custom"]
    style = {"drawstyle": "steps-post"} if custom.get("lineInterpolation") else {}
    for name, values in series:
        points = [(float(at) - start, float(value)) for at, value in values]
        drawn = [(at / 60, value) for at, value in points if math.isfinite(value)]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), label=name, linewidth=1.2, **style)
    axes.set_xlim(0, (end - start) / 60)
    highest = max((value for drawn in axes.lines for value in drawn.get_ydata()), default=0)
    axes.set_ylim(0, 1.15 * highest or 1)
    if not unit and (highest >= 1 or not highest):
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(EngFormatter(unit))
    axes.set_xlabel("minutes", fontsize=7, labelpad=1)
    if axes.lines and len(axes.lines) <= MOST_LEGENDS:
        axes.legend(fontsize=7, frameon=False, loc="best")


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form)


def main() -> None:
    """Draw the last minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="its URL")
    parser.add_argument("to", type=Path, help="the picture, .png or .svg")
    parser.add_argument("--minutes", type=float, default=60, help="how far back")
    parser.add_argument("--window", default="1m", help="span of rates: four times the scrape interval or more")
    options = parser.parse_args()
    end = time.time()
    draw(options.prometheus, end - options.minutes * 60, end, options.window, options.to)


if __name__ == "__main__":
    main()
