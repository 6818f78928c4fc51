"""Run the quickstart and draw its terminal, as it was, into docs/quickstart.svg: python docs/record_quickstart.py.

The run is a real one; its progress and its result are drawn by what draws them in a terminal. The picture plays
`SPEED` times faster than the run was, and then starts again.
"""

# ruff: noqa: D103, INP001, S603, T201

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from llmbatch.api.progress import Progress
from llmbatch.cli.display import render, summary

ROOT = Path(__file__).parents[1]
JOB = "examples/quickstart.yaml"
PICTURE = ROOT / "docs" / "quickstart.svg"
SPEED = 4.0
LAST_SECONDS = 6.0
"""How long the picture stays at the end of the run."""
COLUMNS = 118
# One frame: what Rich draws, without its window and without the font that it would load from elsewhere.
FRAME = """<style>{styles}</style><defs>{lines}</defs>
<g transform="translate(16, 12)">{backgrounds}<g class="text">{matrix}</g></g><!--{height}-->"""
PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A terminal in which llmbatch runs the quickstart</title>
<style>
.text {{ font: 20px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; }}
.frame {{ visibility: hidden; animation-duration: {seconds:.2f}s; animation-iteration-count: infinite;
  animation-timing-function: step-end; }}
@media (prefers-reduced-motion: reduce) {{
  .frame {{ animation: none; }} .frame:last-of-type {{ visibility: visible; }} }}
{moments}
</style>
<rect width="{width}" height="{height}" rx="10" fill="#1b1f24" stroke="#7d8590" stroke-opacity="0.4"/>
{frames}
</svg>
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as output:
        shown, result = recorded(output)
    frames = [frame(number, progress) for number, progress in enumerate(shown)]
    starts = [progress.elapsed_seconds / SPEED for progress in shown]
    end = [Text(f"$ llmbatch run {JOB}"), render(shown[-1]), summary(result, "out/quickstart")]
    frames.append(drawn(len(frames), end))
    PICTURE.write_text(page(frames, starts), encoding="utf-8")
    print(f"{PICTURE}: {len(frames)} frames, {PICTURE.stat().st_size:,} bytes")


def recorded(output: str) -> tuple[list[Progress], Progress]:
    """Run the job and return its progress, where a terminal would have shown another picture, and its last one."""
    program = str(Path(sys.executable).parent / "llmbatch")
    command = [program, "run", JOB, "--output", output, "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    documents = [Progress.model_validate(json.loads(line)["progress"]) for line in done.stdout.splitlines()]
    shown = documents[:1]
    for progress in documents[1:-1]:
        if progress.elapsed_seconds - shown[-1].elapsed_seconds >= 2:
            shown.append(progress)
    return shown, documents[-1]


def frame(number: int, progress: Progress) -> str:
    return drawn(number, [Text(f"$ llmbatch run {JOB}"), render(progress)])


def drawn(number: int, lines: Iterable[RenderableType]) -> str:
    """Return the elements that show some lines, below names of their own."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line)
    return console.export_svg(code_format=FRAME, unique_id=f"f{number}")


def page(frames: list[str], starts: list[float]) -> str:
    """Return the picture that shows each frame from its start until the next one's."""
    first = starts[0]
    starts = [start - first for start in starts]
    starts.append(starts[-1] + 1 / SPEED)
    seconds = starts[-1] + LAST_SECONDS
    ends = [*starts[1:], seconds]
    spans = zip(starts, ends, strict=True)
    moments = "\n".join(moment(number, start, end, seconds) for number, (start, end) in enumerate(spans))
    height = max(float(text.rpartition("<!--")[2].removesuffix("-->")) for text in frames)
    bodies = "\n".join(f'<g class="frame" id="m{number}">{text}</g>' for number, text in enumerate(frames))
    width = COLUMNS * 12.2 + 32
    return PAGE.format(width=round(width), height=round(height), seconds=seconds, moments=moments, frames=bodies)


def moment(number: int, start: float, end: float, seconds: float) -> str:
    begin, stop = 100 * start / seconds, 100 * end / seconds
    steps = (
        f"0% {{ visibility: hidden; }} {begin:.2f}% {{ visibility: visible; }} {stop:.2f}% {{ visibility: hidden; }}"
    )
    if begin == 0:
        steps = f"0% {{ visibility: visible; }} {stop:.2f}% {{ visibility: hidden; }}"
    return f"@keyframes m{number} {{ {steps} }} #m{number} {{ animation-name: m{number}; }}"


if __name__ == "__main__":
    main()
