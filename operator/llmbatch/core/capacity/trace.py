"""Capacity traces: which nodes are there at which second.

The simulator and `llmbatch run --capacity` drive the same `Trace`. `trace_formats` makes one from a file's text.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from llmbatch.errors import InputError

Victims = Literal["newest", "random"]
"""Which nodes leave when a trace only says how many: the ones that came last, or seeded random ones."""


class Window(NamedTuple):
    """A stretch of time without a change: `start` and `end` in seconds, and the nodes that are there."""

    start: float
    end: float
    nodes: frozenset[str]


class Change(NamedTuple):
    """What one event adds and removes, in sorted order."""

    seconds: float
    added: tuple[str, ...]
    removed: tuple[str, ...]


class Lifetime(NamedTuple):
    """One stay of one node, in seconds. `removed` is false where the trace ends before the node leaves."""

    node: str
    start: float
    end: float
    removed: bool


@dataclass(frozen=True)
class Trace:
    """Nodes over time.

    `events` are (seconds, nodes there from then on): the first at 0, times rising, each set other than the one
    before. The last set holds to `end_seconds`, and beyond it where something outlives the trace.
    Build one with `Trace.of`, `Trace.counted`, `Trace.constant` or `trace_formats.parse_trace`.
    """

    events: tuple[tuple[float, frozenset[str]], ...]
    end_seconds: float
    gpus_per_node: int = 1

    @classmethod
    def of(
        cls, events: Iterable[tuple[float, Iterable[str]]], end_seconds: float | None = None, gpus_per_node: int = 1
    ) -> Trace:
        """Build a trace from events in rising order of time; the last of several at one time counts.

        No node is there before the first event. The trace ends with its last event unless `end_seconds` is later.

        Raises:
            InputError: a time is negative or falls, there is no event, or a node has no GPU.
        """
        if gpus_per_node < 1:
            raise InputError.of("gpus_per_node", gpus_per_node, "at least 1")
        kept: list[tuple[float, frozenset[str]]] = [(0.0, frozenset())]
        last = -1.0
        for seconds, nodes in events:
            if seconds < max(last, 0.0):
                raise InputError.of("trace time", seconds, f"at least {max(last, 0.0):g} s, the time before it")
            last = seconds
            if seconds == kept[-1][0]:
                kept.pop()
            there = frozenset(nodes)
            if not kept or there != kept[-1][1]:
                kept.append((float(seconds), there))
        if last < 0:
            raise InputError.of("trace", "", "at least one event")
        return cls(tuple(kept), max(last, end_seconds or 0.0), gpus_per_node)

    @classmethod
    def counted(
        cls,
        counts: Iterable[tuple[float, int]],
        end_seconds: float | None = None,
        gpus_per_node: int = 1,
        *,
        seed: int = 0,
        victims: Victims = "random",
    ) -> Trace:
        """Build a trace from (seconds, number of nodes), choosing who leaves: the newest, or random by `seed`."""
        return cls.of(_placed(counts, seed, victims), end_seconds, gpus_per_node)

    @classmethod
    def constant(cls, nodes: int, end_seconds: float, gpus_per_node: int = 1) -> Trace:
        """Build a trace on which nothing changes: on-demand capacity."""
        return cls.counted([(0.0, nodes)], end_seconds, gpus_per_node)

    @property
    def most_gpus(self) -> int:
        """The most GPUs there at any time."""
        return max(len(nodes) for _, nodes in self.events) * self.gpus_per_node

    def at(self, seconds: float) -> frozenset[str]:
        """Return the nodes there at a time; those of the last event after the end."""
        return self.events[max(0, bisect_right(self.events, seconds, key=lambda event: event[0]) - 1)][1]

    def gpus_at(self, seconds: float) -> int:
        """Return the GPUs there at a time."""
        return len(self.at(seconds)) * self.gpus_per_node

    def windows(self) -> Iterator[Window]:
        """Iterate over the stretches between changes, from 0 to the end."""
        ends = [seconds for seconds, _ in self.events[1:]] + [self.end_seconds]
        for (start, nodes), end in zip(self.events, ends, strict=True):
            if end > start:
                yield Window(start, end, nodes)

    def changes(self) -> Iterator[Change]:
        """Iterate over what comes and goes; the first change adds the nodes that are there at 0."""
        before: frozenset[str] = frozenset()
        for seconds, nodes in self.events:
            yield Change(seconds, tuple(sorted(nodes - before)), tuple(sorted(before - nodes)))
            before = nodes

    def lifetimes(self) -> list[Lifetime]:
        """Return every stay of every node, by start. A node that comes again has several."""
        since: dict[str, float] = {}
        stays: list[Lifetime] = []
        for seconds, added, removed in self.changes():
            stays += [Lifetime(node, since.pop(node), seconds, removed=True) for node in removed]
            since |= dict.fromkeys(added, seconds)
        stays += [Lifetime(node, start, self.end_seconds, removed=False) for node, start in since.items()]
        return sorted(stays, key=lambda stay: (stay.start, stay.node))

    def gpu_seconds(self) -> float:
        """Return the integral of GPUs over time: what is paid for."""
        return sum((end - start) * len(nodes) for start, end, nodes in self.windows()) * self.gpus_per_node

    def slice(self, start: float, end: float) -> Trace:
        """Return the trace between two times, with `start` as its second 0.

        Raises:
            InputError: the stretch is empty or not inside the trace.
        """
        if not 0 <= start < end <= self.end_seconds:
            raise InputError.of("trace slice", (start, end), f"0 <= start < end <= {self.end_seconds:g} s")
        events = [(0.0, self.at(start))]
        events += [(seconds - start, nodes) for seconds, nodes in self.events if start < seconds < end]
        return Trace.of(events, end - start, self.gpus_per_node)

    def repeated(self, end_seconds: float) -> Trace:
        """Return the trace played again and again until a time.

        A new round keeps as many of the nodes as it starts with, so that going round preempts nobody else; nodes
        that come later get names of their own.

        Raises:
            InputError: the trace has no length.
        """
        if self.end_seconds <= 0:
            raise InputError.of("trace length", self.end_seconds, "more than 0 s, to play it again")
        events = list(self.events)
        there = self.at(self.end_seconds)
        start = self.end_seconds
        while start < end_seconds:
            names: dict[str, str] = dict(zip(sorted(self.events[0][1]), sorted(there), strict=False))
            for seconds, nodes in self.events:
                names |= {node: f"{node}@{start:g}" for node in nodes - names.keys()}
                there = frozenset(names[node] for node in nodes)
                names = {node: names[node] for node in nodes}
                events.append((start + seconds, there))
            start += self.end_seconds
        kept = [event for event in events if event[0] <= end_seconds]
        return replace(Trace.of(kept, end_seconds, self.gpus_per_node), end_seconds=end_seconds)


def _placed(counts: Iterable[tuple[float, int]], seed: int, victims: Victims) -> Iterator[tuple[float, Sequence[str]]]:
    there: list[str] = []
    made = 0
    for event, (seconds, count) in enumerate(counts):
        if count < 0:
            raise InputError.of("trace nodes", count, "0 or more")
        new = max(0, count - len(there))
        there += [f"node-{made + index}" for index in range(new)]
        made += new
        if victims == "random" and count < len(there):
            gone = set(sorted(there, key=lambda node: _draw(seed, event, node))[count:])
            there = [node for node in there if node not in gone]
        there = there[:count]
        yield seconds, tuple(there)


def _draw(seed: int, event: int, node: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{event}/{node}".encode(), digest_size=8).digest()
