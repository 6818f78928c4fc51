"""Several policies on one trace: what each did with the GPUs that were there, against the same bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from llmbatch.core.capacity.trace import Trace
from llmbatch.simulator.oracle import Efficiency, efficiency

WATERFALL = ("useful", "load", "switch", "starved", "blocked", "redo", "detection", "unallocated")
"""What GPU-seconds go to. Useful ones ended in a committed row; the others say why they did not."""
CLOSES = 0.005
"""The waterfall's parts and the GPU-seconds there were may differ by this share; beyond, a run is no measurement."""


@dataclass(frozen=True)
class Series:
    """What one run looked like over time.

    `seconds` rise; every other sequence is as long. `gpus` are there, `ready` (by stage) are those of replicas that
    take rows, `loading` those of replicas that start. `queued` are rows that wait for a stage; a stage whose input
    does not end has none. `committed` are rows.
    """

    seconds: Sequence[float]
    gpus: Sequence[float]
    ready: Mapping[str, Sequence[float]]
    loading: Sequence[float]
    queued: Mapping[str, Sequence[float]]
    committed: Sequence[float]


@dataclass(frozen=True)
class Unserved:
    """How long rows waited for a stage without a ready replica while there were GPUs for every stage.

    `share` is of the time with that many GPUs, `longest_seconds` of one stage at a stretch.
    """

    share: float
    longest_seconds: float


def unserved(series: Series, gpus_for_all: int) -> Unserved:
    """Measure it; `gpus_for_all` are one replica's of each stage. The first stage counts only where its input ends."""
    enough = some = longest = 0.0
    lasted = dict.fromkeys(series.queued, 0.0)
    for index, (start, end) in enumerate(pairwise(series.seconds)):
        served = series.gpus[index] < gpus_for_all
        without = (
            []
            if served
            else [name for name, queued in series.queued.items() if queued[index] > 0 and not series.ready[name][index]]
        )
        lasted = {name: lasted[name] + end - start if name in without else 0.0 for name in lasted}
        longest = max(longest, *lasted.values(), 0.0)
        enough += 0.0 if served else end - start
        some += end - start if without else 0.0
    return Unserved(some / enough if enough else 0.0, longest)


def short_windows(trace: Trace, series: Series, gpus_for_all: int, least_seconds: float) -> tuple[int, int]:
    """Count long stretches of the same nodes, too few for every stage, and those of them in which no row came out."""
    found = stuck = 0
    for start, end, nodes in trace.windows():
        if 0 < len(nodes) * trace.gpus_per_node < gpus_for_all and end - start > least_seconds:
            found += 1
            stuck += _committed(series, start) == _committed(series, end)
    return found, stuck


def _committed(series: Series, seconds: float) -> float:
    return series.committed[max(0, bisect_right(series.seconds, seconds) - 1)]


@dataclass(frozen=True)
class Outcome:
    """One run of one policy.

    `rows` are committed ones, `seconds` from 0 to the last commit of a finished input, or to the end of the trace;
    `spent` are the GPU-seconds of each part of the waterfall, `gpu_seconds` those that were there until `seconds`.
    """

    policy: str
    seed: int
    rows: float
    seconds: float
    gpu_seconds: float
    spent: Mapping[str, float]
    bound: float
    series: Series

    @property
    def efficiency(self) -> Efficiency:
        """Rows over the clairvoyant bound of the same stretch."""
        return efficiency(self.rows, self.bound)

    @property
    def closes(self) -> bool:
        """Whether the waterfall's parts add up to the GPU-seconds that were there."""
        return abs(sum(self.spent.values()) - self.gpu_seconds) <= CLOSES * self.gpu_seconds

    @property
    def failed(self) -> bool:
        """Whether the run is no measurement: rows above the bound, or GPU-seconds nobody accounts for."""
        return self.efficiency.failed or not self.closes

    def share(self, part: str) -> float:
        """Return a part of the waterfall as a share of the GPU-seconds that were there."""
        return self.spent.get(part, 0.0) / self.gpu_seconds if self.gpu_seconds else 0.0


@dataclass(frozen=True)
class Summary:
    """The runs of one policy, one a seed."""

    policy: str
    outcomes: Sequence[Outcome]

    @property
    def rows(self) -> float:
        """Mean rows committed."""
        return fmean(outcome.rows for outcome in self.outcomes)

    @property
    def rows_per_second(self) -> float:
        """Mean rows a second."""
        return fmean(outcome.rows / outcome.seconds for outcome in self.outcomes)

    @property
    def efficiency(self) -> Efficiency:
        """Mean share of the bound; failed where any seed failed."""
        shares = [outcome.efficiency for outcome in self.outcomes]
        failed = [share for share in shares if share.failed]
        return failed[0] if failed else Efficiency(fmean(share.share for share in shares))

    @property
    def least_efficiency(self) -> Efficiency:
        """The lowest share of the bound of any seed."""
        return Efficiency(min(outcome.efficiency.share for outcome in self.outcomes))

    @property
    def gpu_hours(self) -> float:
        """Mean GPU-hours that were there."""
        return fmean(outcome.gpu_seconds for outcome in self.outcomes) / 3600

    @property
    def failed(self) -> bool:
        """Whether any seed's run is no measurement."""
        return any(outcome.failed for outcome in self.outcomes)

    def share(self, part: str) -> float:
        """Return the mean share of a part of the waterfall."""
        return fmean(outcome.share(part) for outcome in self.outcomes)
