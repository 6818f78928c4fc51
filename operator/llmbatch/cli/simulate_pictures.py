"""Pictures of simulated policies, as SVG that takes its ink from the page around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from llmbatch.cli.report import COLORS, INK
from llmbatch.simulator.compare import Series

POINTS = 500
"""Samples of a picture: more cannot be seen, and would make the page heavy."""
SHARES = {
    "useful": "#3b82c4",
    "load": "#a9781c",
    "switch": "#8c6a45",
    "starved": "#8a7bc8",
    "blocked": "#3a9ea5",
    "redo": "#c2564f",
    "detection": "#b5568f",
    "unallocated": "#7b838d",
}
"""What GPU-seconds went to, in the order of the waterfall."""
LABELLED = 0.035
"""Shares of at least this much get their number written into the bar."""


def run_picture(series: Series) -> str:
    """Draw one run: who has the GPUs (the stages' ready replicas, those that load, all there are), and who waits."""

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        seconds, at = _sampled(series.seconds)
        unit, name = _time_unit(series.seconds)
        times = [second / unit for second in seconds]
        _draw_gpus(upper, times, series, at)
        _finish(upper, "", "GPUs")
        for color, stage in zip(COLORS, series.ready, strict=False):
            if stage not in series.queued:
                continue
            rows = [series.queued[stage][index] for index in at]
            lower.plot(times, rows, label=f"waits for {stage}", color=color, drawstyle="steps-post", linewidth=1.2)
        _finish(lower, name, "rows")

    return _svg(draw, height=4.6)


def _draw_gpus(axes: Any, times: Sequence[float], series: Series, at: Sequence[int]) -> None:
    parts = [[values[index] for index in at] for values in series.ready.values()]
    axes.stackplot(times, *parts, labels=list(series.ready), colors=COLORS[: len(parts)], step="post", linewidth=0)
    held = [sum(part[point] for part in parts) for point in range(len(at))]
    loading = [low + series.loading[index] for low, index in zip(held, at, strict=True)]
    hatched = {"facecolor": "none", "edgecolor": INK, "hatch": "/////", "linewidth": 0}
    axes.fill_between(times, held, loading, step="post", label="loading", **hatched)
    there = [series.gpus[index] for index in at]
    axes.plot(times, there, drawstyle="steps-post", color=INK, linewidth=1.4, label="there")


def rows_picture(runs: Mapping[str, Series], bound: float) -> str:
    """Draw the committed rows of several policies below the clairvoyant bound at the end of the trace."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        longest = max((series.seconds for series in runs.values()), key=lambda seconds: seconds[-1])
        unit, name = _time_unit(longest)
        _draw_rows(axes, runs, bound, unit)
        _finish(axes, name, "rows")

    return _svg(draw, height=3.2)


def _draw_rows(axes: Any, runs: Mapping[str, Series], bound: float, unit: float) -> None:
    for color, (policy, series) in zip(COLORS, runs.items(), strict=False):
        seconds, at = _sampled(series.seconds)
        rows = [series.committed[index] for index in at]
        axes.plot([second / unit for second in seconds], rows, label=policy, color=color, drawstyle="steps-post")
    axes.axhline(bound, color=INK, linestyle=(0, (5, 4)), linewidth=1.2, label="clairvoyant bound")


def spot_picture(runs: Mapping[str, Series], bound: float) -> str:
    """Draw a file of its own: who has the GPUs under the first policy, and below every policy's rows and the bound.

    The ink follows the reader's light or dark theme.
    """

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        first = next(iter(runs.values()))
        unit, name = _time_unit(first.seconds)
        seconds, at = _sampled(first.seconds)
        _draw_gpus(upper, [second / unit for second in seconds], first, at)
        _finish(upper, "", "GPUs")
        _draw_rows(lower, runs, bound, unit)
        _finish(lower, name, "rows")

    style = "<style>svg { color: #1c1e21 } @media (prefers-color-scheme: dark) { svg { color: #e6e8eb } }</style>"
    head, body = _svg(draw, height=5.4).split(">", 1)
    return f"{head}>{style}{body}"


def waterfall_picture(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Draw what each policy's GPU-seconds went to: one bar a policy, shares of all that were there."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        names = list(shares)[::-1]
        left = dict.fromkeys(names, 0.0)
        used = [kind for kind in SHARES if any(shares[name].get(kind, 0.0) >= 0.0005 for name in names)]
        for kind in used:
            widths = [shares[name].get(kind, 0.0) for name in names]
            axes.barh(names, widths, left=[left[name] for name in names], color=SHARES[kind], label=kind, height=0.62)
            for name, width in zip(names, widths, strict=True):
                if width >= LABELLED:
                    middle = left[name] + width / 2
                    axes.text(middle, name, f"{width:.0%}", color="white", ha="center", va="center", fontsize=9)
                left[name] += width
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("GPU-seconds that were there")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(used), handlelength=1.0)

    return _svg(draw, height=1.1 + 0.42 * len(shares))


def _sampled(seconds: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return evenly spaced times, and the index of the value that holds at each."""
    from bisect import bisect_right

    if len(seconds) <= POINTS:
        return list(seconds), list(range(len(seconds)))
    step = (seconds[-1] - seconds[0]) / (POINTS - 1)
    kept = [seconds[0] + step * point for point in range(POINTS)]
    return kept, [max(0, bisect_right(seconds, second) - 1) for second in kept]


def _time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    length = seconds[-1] - seconds[0]
    if length > 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if length > 10 * 60 else (1.0, "seconds")


def _finish(axes: Any, time: str, unit: str) -> None:
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlabel(time)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    # Of a single stage there are no rows between stages.
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=8, handlelength=1.4)


def _svg(draw: Callable[[Any], None], height: float) -> str:
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(9, height), layout="constrained")
        draw(figure)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    svg = picture.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _style() -> AbstractContextManager[None]:
    import matplotlib as mpl

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    fonts = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "llmbatch"}
    style: AbstractContextManager[None] = mpl.rc_context({**ink, **fonts, "hatch.linewidth": 0.6})
    return style
