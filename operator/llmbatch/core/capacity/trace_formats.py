"""Capacity traces as text: the formats that are published, and a simple CSV.

| first line | format | published with |
|---|---|---|
| `time_seconds,nodes` | CSV: a count, or the nodes' names joined by `;` | llmbatch |
| `0,add,node1` | milliseconds, add or remove, name | Bamboo (NSDI'23), Parcae (NSDI'24, liveput) |
| `[0, "add", {"nodes": ["node-0"], "duration": 60000}]` | JSON: action, names, length | Parcae (NSDI'24) |
| `2021-12-11, 11:11:30, 55` | date, time of day, count | Bamboo, Google Cloud |
| `0,4` | time and count, unit by what the numbers look like, see `_unit` | Bamboo plots, Parcae `p3.csv` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from llmbatch.core.capacity.trace import Trace, Victims
from llmbatch.errors import InputError

HEADER = "time_seconds,nodes"
NUMBER = r"-?\d+(\.\d+)?"
MILLISECONDS = 1e-3
HOURS = 3600.0
LONGEST_SECONDS = 10_000_000
"""A time above this (116 days) in a file without a header is taken as milliseconds."""


class _Line(NamedTuple):
    number: int
    text: str


class _File:
    """The lines of a trace that say something, and its errors."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        numbered = [_Line(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        self.lines = [line for line in numbered if line.text and not line.text.startswith("#")]

    def error(self, line: _Line, allowed: str) -> InputError:
        return InputError.of(f"{self.name}:{line.number}", line.text[:80], allowed)

    def fields(self, line: _Line, count: int, allowed: str) -> list[str]:
        found = [field.strip() for field in line.text.split(",")]
        if len(found) != count:
            raise self.error(line, allowed)
        return found

    def number(self, line: _Line, field: str, what: str) -> float:
        if field.startswith("-") or not re.fullmatch(NUMBER, field):
            raise self.error(line, f"{what} must be a number, 0 or more")
        return float(field)


class _Placing(NamedTuple):
    gpus_per_node: int
    seed: int
    victims: Victims


def parse_trace(
    text: str, name: str = "trace", *, gpus_per_node: int = 1, seed: int = 0, victims: Victims = "random"
) -> Trace:
    """Return the trace a file's text describes. Lines that start with `#` and empty lines are skipped.

    Where the file names its nodes, they keep their names; where it only counts them, `seed` and `victims` choose
    who leaves. Times count from the start of the recording: its first sample where it has a clock, 0 otherwise.

    Raises:
        InputError: a line is not what its format allows; the message names file, line and what is allowed.
    """
    file = _File(text, name)
    if not file.lines:
        raise InputError.of(name, "", f"a capacity trace: {HEADER!r} and at least one line below it")
    return _reader(file)(file, _Placing(gpus_per_node, seed, victims))


def _reader(file: _File) -> Callable[[_File, _Placing], Trace]:
    first = file.lines[0]
    for pattern, reader in READERS:
        if re.match(pattern, first.text):
            return reader
    raise file.error(
        first,
        f"the header {HEADER!r}, or a line such as '0,4', '0,add,node1', '2021-12-11, 11:11:30, 55' "
        'or \'[0, "add", {"nodes": ["node1"]}]\'',
    )


def _csv(file: _File, placing: _Placing) -> Trace:
    rows = file.lines[1:]
    if not rows:
        raise file.error(file.lines[0], "at least one line below the header")
    cells = [file.fields(line, 2, "two fields: seconds, nodes") for line in rows]
    times = [file.number(line, time, "the time") for line, (time, _) in zip(rows, cells, strict=True)]
    _check_order(file, rows, times)
    if all(nodes.isdecimal() for _, nodes in cells):
        counts = [int(nodes) for _, nodes in cells]
        return _counted(list(zip(times, counts, strict=True)), placing)
    events = [(time, _names(file, line, nodes)) for line, time, (_, nodes) in zip(rows, times, cells, strict=True)]
    return Trace.of(events, gpus_per_node=placing.gpus_per_node)


def _names(file: _File, line: _Line, cell: str) -> list[str]:
    names = [name.strip() for name in cell.split(";")] if cell else []
    if any(not name or re.fullmatch(NUMBER, name) for name in names):
        raise file.error(line, "names joined by ';' in every line, or a count in every line (0: '0' or no name)")
    if len(set(names)) < len(names):
        raise file.error(line, "each node once")
    return names


def _steps(file: _File, placing: _Placing) -> Trace:
    cells = [file.fields(line, 2, "two fields: time, nodes") for line in file.lines]
    counts = []
    for line, (time, nodes) in zip(file.lines, cells, strict=True):
        if not nodes.isdecimal():
            raise file.error(line, f"the nodes must be a count; for names begin the file with {HEADER!r}")
        counts.append((file.number(line, time, "the time"), int(nodes)))
    unit = _unit([time for time, _ in cells], counts)
    _check_order(file, file.lines, [time for time, _ in counts])
    return _counted([(time * unit, nodes) for time, nodes in counts], placing)


def _unit(times: Sequence[str], counts: Sequence[tuple[float, int]]) -> float:
    """Return the seconds in one unit of a file without a header.

    Hours where it is one of Bamboo's plots (three decimals everywhere, and each line repeats the time or the count
    of the line before), milliseconds where a time is beyond `LONGEST_SECONDS`, seconds otherwise. A header says it.
    """
    decimals = all(re.fullmatch(r"\d+\.\d{3}", time) for time in times)
    plot = all(before[0] == after[0] or before[1] == after[1] for before, after in pairwise(counts))
    if decimals and plot and len(counts) > 1:
        return HOURS
    return MILLISECONDS if counts[-1][0] > LONGEST_SECONDS else 1.0


def _instances(file: _File, placing: _Placing) -> Trace:
    there: set[str] = set()
    events: list[tuple[float, frozenset[str]]] = []
    for line in file.lines:
        time, action, node = file.fields(line, 3, "three fields: milliseconds, add or remove, name")
        _apply(file, line, there, action, [node])
        events.append((file.number(line, time, "the time") * MILLISECONDS, frozenset(there)))
    _check_order(file, file.lines, [seconds for seconds, _ in events])
    return Trace.of(events, gpus_per_node=placing.gpus_per_node)


def _segment(file: _File, placing: _Placing) -> Trace:
    there: set[str] = set()
    events: list[tuple[float, frozenset[str]]] = []
    end = 0.0
    for line in file.lines:
        milliseconds, action, nodes, duration = _entry(file, line)
        if action not in ("no-op", "migration"):
            _apply(file, line, there, action, nodes)
        events.append((milliseconds * MILLISECONDS, frozenset(there)))
        end = (milliseconds + duration) * MILLISECONDS
    _check_order(file, file.lines, [seconds for seconds, _ in events])
    return Trace.of(events, end, placing.gpus_per_node)


def _entry(file: _File, line: _Line) -> tuple[float, str, list[str], float]:
    allowed = '[milliseconds, "add" | "remove" | "migration" | "no-op", {"nodes": [names], "duration": milliseconds}]'
    try:
        entry: Any = json.loads(line.text)
    except json.JSONDecodeError as error:
        raise file.error(line, f"{allowed}; {error.msg}") from error
    match entry:
        case [int() | float() as time, str() as action, {"nodes": list() as nodes, **rest}] if time >= 0:
            duration = rest.get("duration", 0)
            if isinstance(duration, int | float) and duration >= 0 and all(isinstance(node, str) for node in nodes):
                return time, action, nodes, duration
    raise file.error(line, allowed)


def _apply(file: _File, line: _Line, there: set[str], action: str, nodes: Sequence[str]) -> None:
    named = set(nodes)
    if action == "add" and not named & there:
        there |= named
    elif action == "remove" and named <= there:
        there -= named
    else:
        raise file.error(line, "'add' of a node that is not there, or 'remove' of one that is")


def _clock(file: _File, placing: _Placing) -> Trace:
    """Read samples of a clock. A line replaces what earlier lines of the file said about its time and later ones:

    the recorder wrote each change with a guess for the minutes around it, and the next change corrects it.
    """
    samples: list[tuple[datetime, int]] = []
    end: datetime | None = None
    for line in file.lines:
        date, time, nodes = file.fields(line, 3, "three fields: YYYY-MM-DD, HH:MM:SS, nodes")
        try:
            moment = datetime.fromisoformat(f"{date}T{time}").replace(tzinfo=UTC)
        except ValueError as error:
            raise file.error(line, "a date YYYY-MM-DD and a time HH:MM:SS") from error
        if not nodes.isdecimal():
            raise file.error(line, "the nodes must be a count")
        while samples and samples[-1][0] >= moment:
            samples.pop()
        samples.append((moment, int(nodes)))
        end = max(end or moment, moment)
    start = samples[0][0]
    counts = [((moment - start).total_seconds(), nodes) for moment, nodes in samples]
    return _counted(counts, placing, end_seconds=((end or start) - start).total_seconds())


def _check_order(file: _File, lines: Sequence[_Line], times: Sequence[float]) -> None:
    for line, (before, after) in zip(lines[1:], pairwise(times), strict=True):
        if after < before:
            raise file.error(line, "a time not before the line above")


def _counted(counts: Sequence[tuple[float, int]], placing: _Placing, end_seconds: float | None = None) -> Trace:
    gpus_per_node, seed, victims = placing
    return Trace.counted(counts, end_seconds, gpus_per_node, seed=seed, victims=victims)


READERS: Sequence[tuple[str, Callable[[_File, _Placing], Trace]]] = (
    (rf"{HEADER}\s*$", _csv),
    (r"\[", _segment),
    (r"\d{4}-\d\d-\d\d\s*,", _clock),
    (r"[\d.]+\s*,\s*[a-zA-Z]+\s*,", _instances),
    (r"[\d.]+\s*,\s*\d+\s*$", _steps),
)
"""What a format's first line looks like, and its reader; the first that matches reads the file."""
