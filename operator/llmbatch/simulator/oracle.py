"""The most rows any policy could finish on a capacity trace, and what share of it one did.

`most_rows` is a linear program that sees the whole trace beforehand and may split GPUs into fractions. In step t of
`dt` seconds, for stage s with w_s GPU-seconds a row and a load of L_s = n_s dt seconds:

    maximise   sum_t f_S(t)                                                    rows out of the last stage
    g_s(t)  <= g_s(t-1) + y_s(t-n_s)                                           ready GPUs: kept, or loaded by now
    sum_s [ g_s(t) + sum_{j<n_s} y_s(t-j) ] <= C(t)                            ready and loading GPUs exist
    f_s(t)  <= g_s(t) dt / w_s                                                 rows need ready GPUs
    b_s(t)   = b_s(t-1) + f_s(t) - f_{s+1}(t),  0 <= b_s(t) <= B_s             rows between two stages

It bounds every real schedule, for any dt: let g, y and C be the averages over each step of what the schedule has
ready, has begun to load and of the GPUs that are there. Since a load lasts n_s whole steps, averages obey the same
equations, and rows done in a step need the average of the ready GPUs. Where L_s is not a multiple of dt it is rounded
down, which can only raise the bound. A larger dt loosens it (docs/simulate.md has numbers), a smaller one takes
longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse

from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import InputError, InternalError

MOST_STEPS = 6000
"""Steps of the linear program at most, used where one step a load takes that many: 66,000 variables, some 10 s."""
GOOD_STEPS = 1500
"""A load is cut into several steps up to this many in all: about a second to solve."""
FINEST_DIVISION = 10
"""The shortest load is cut into at most this many steps: below, the bound does not move."""
TOLERANCE = 1e-6
"""Relative error allowed to the solver before a share above 1 counts as a failed measurement."""
WHOLE_GAP = 0.01
"""A schedule of whole replicas is good enough where none can have this share more rows."""
COMPLETION_TOLERANCE = 0.002
"""Relative error of `least_seconds`, which stays a lower bound."""

ROUNDING = 1e-9
"""What is whole but for its rounding is whole."""

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class OracleStage:
    """A stage as the bounds see it.

    `gpu_seconds_per_row` is measured on a busy replica (GPUs a replica times its seconds a row), `load_seconds` is
    the time from a free GPU to a replica that takes rows, `gpus` one replica's, `buffer_rows` the most rows that may
    lie finished behind this stage, those in work at the next stage included.
    """

    gpu_seconds_per_row: float
    load_seconds: float = 0.0
    gpus: int = 1
    buffer_rows: float = math.inf
    max_replicas: int | None = None

    def __post_init__(self) -> None:
        if not self.gpu_seconds_per_row > 0:
            raise InputError.of("gpu_seconds_per_row", self.gpu_seconds_per_row, "more than 0")
        if not self.load_seconds >= 0:
            raise InputError.of("load_seconds", self.load_seconds, "0 or more")
        if self.gpus < 1:
            raise InputError.of("gpus", self.gpus, "at least 1")


@dataclass(frozen=True)
class Bounds:
    """Upper bounds on the rows of one trace, each lower than the one before.

    `paid`: all GPU-seconds at work (UB0). `loaded`: less the shortest load of every node's stay, with the newest
    leaving first (UB1). `clairvoyant`: the linear program (UB2), and never above the others.
    `pinned` is no bound: the best whole replicas of each window without switching or loads (UB3), what a small pool
    can reach that does not time-share its GPUs.
    """

    paid: float
    loaded: float
    clairvoyant: float
    pinned: float
    step_seconds: float


@dataclass(frozen=True)
class Efficiency:
    """Rows over a bound. A share above 1 means that the rows, the bound or its inputs are wrong."""

    share: float

    @property
    def failed(self) -> bool:
        """Whether this is no measurement."""
        return not self.share <= 1 + TOLERANCE

    def __str__(self) -> str:
        return f"failed ({self.share:.3f})" if self.failed else f"{self.share:.3f}"


def efficiency(rows: float, bound: float) -> Efficiency:
    """Return the share of a bound that a policy reached; marked as failed where it is above 1 or not a number."""
    return Efficiency(rows / bound if bound > 0 else (1.0 if rows == 0 else math.inf))


def bounds(trace: Trace, stages: Sequence[OracleStage], rows: float = math.inf) -> Bounds:
    """Return every bound on a trace, for an input of `rows`.

    Raises:
        InputError: no stage, or a trace without length.
    """
    paid = min(rows, paid_rows(trace, stages))
    loaded = min(paid, loaded_rows(trace, stages))
    step = step_seconds(trace, stages)
    clairvoyant = min(loaded, most_rows(trace, stages, rows=rows, dt=step))
    return Bounds(paid, loaded, clairvoyant, min(rows, pinned_rows(trace, stages)), step)


def paid_rows(trace: Trace, stages: Sequence[OracleStage]) -> float:
    """Return the rows that all GPU-seconds pay for (UB0)."""
    return trace.gpu_seconds() / _gpu_seconds_per_row(stages)


def loaded_rows(trace: Trace, stages: Sequence[OracleStage]) -> float:
    """Return the rows left when every stay of a node pays the shortest load once (UB1), the newest leaving first."""
    shortest = min(stage.load_seconds for stage in stages)
    counts = [(seconds, len(nodes)) for seconds, nodes in trace.events]
    newest = Trace.counted(counts, trace.end_seconds, trace.gpus_per_node, victims="newest")
    tax = sum(min(stay.end - stay.start, shortest) for stay in newest.lifetimes()) * trace.gpus_per_node
    return (trace.gpu_seconds() - tax) / _gpu_seconds_per_row(stages)


def pinned_rows(trace: Trace, stages: Sequence[OracleStage]) -> float:
    """Return the rows of the best whole replicas in every window, without switching and without loads (UB3)."""
    rates: dict[int, float] = {}
    rows = 0.0
    for start, end, nodes in trace.windows():
        gpus = len(nodes) * trace.gpus_per_node
        rates.setdefault(gpus, pinned_rate(gpus, stages))
        rows += rates[gpus] * (end - start)
    return rows


def pinned_rate(gpus: int, stages: Sequence[OracleStage]) -> float:
    """Return the best rows a second of whole replicas on a number of GPUs: max over x of min_s x_s k_s / w_s."""
    replicas = [0] * len(stages)
    while True:
        rates = [count * stage.gpus / stage.gpu_seconds_per_row for count, stage in zip(replicas, stages, strict=True)]
        slowest = rates.index(min(rates))
        gpus -= stages[slowest].gpus
        if gpus < 0 or replicas[slowest] == stages[slowest].max_replicas:
            return rates[slowest]
        replicas[slowest] += 1


def step_seconds(trace: Trace, stages: Sequence[OracleStage]) -> float:
    """Return a step for `most_rows`: it divides the loads evenly, and as finely as seconds of solving allow.

    Raises:
        InputError: the trace has no length.
    """
    if trace.end_seconds <= 0:
        raise InputError.of("trace length", trace.end_seconds, "more than 0 s")
    loads = [stage.load_seconds for stage in stages if stage.load_seconds > 0]
    if not loads:
        return trace.end_seconds / GOOD_STEPS
    fine = [min(loads) / division for division in range(1, FINEST_DIVISION + 1)]
    allowed = [step for step in fine if trace.end_seconds / step <= GOOD_STEPS]
    if allowed:
        return min(allowed, key=lambda step: (round(_rounded_off(loads, step), 6), step))
    return max(fine[0], trace.end_seconds / MOST_STEPS)


def _rounded_off(loads: Sequence[float], step: float) -> float:
    return sum(load - _steps(load, step) * step for load in loads) / sum(loads)


def _steps(load: float, step: float) -> int:
    return math.floor(load / step + ROUNDING)


def most_rows(trace: Trace, stages: Sequence[OracleStage], *, rows: float = math.inf, dt: float | None = None) -> float:
    """Return the rows of the clairvoyant schedule (UB2): the linear program above, solved by HiGHS.

    Args:
        trace: The GPUs there, from 0 to its end; nothing is loaded at 0.
        stages: The chain, first stage first.
        rows: Rows of the input.
        dt: Seconds a step; chosen by `step_seconds` when None.

    Raises:
        InputError: no stage, or a trace without length.
        InternalError: the solver failed.
    """
    program = _Program(trace, stages, dt or step_seconds(trace, stages))
    return program.solve(rows)


def whole_rows(trace: Trace, stages: Sequence[OracleStage], *, dt: float | None = None, seconds: float = 60.0) -> float:
    """Return the rows of the best schedule of whole replicas that HiGHS finds in some `seconds`.

    It knows the whole trace beforehand, as `most_rows` does, but splits no GPU: g and y of the program are whole. This
    is no bound, a better schedule may exist.

    Raises:
        InputError: no stage, a trace without length, or a replica of more than one GPU.
        InternalError: the solver found none.
    """
    if several := [stage.gpus for stage in stages if stage.gpus != 1]:
        raise InputError.of("gpus", several[0], "1 for a schedule of whole replicas")
    program = _Program(trace, stages, dt or step_seconds(trace, stages))
    return program.solve_whole(seconds)


def least_seconds(trace: Trace, stages: Sequence[OracleStage], rows: float) -> float:
    """Return a lower bound on the time in which any policy finishes `rows`: T* of the completion efficiency.

    Returns infinity where the trace ends before.
    """
    low, high = 0.0, trace.end_seconds
    if most_rows(trace, stages) < rows:
        return math.inf
    while high - low > COMPLETION_TOLERANCE * high:
        middle = (low + high) / 2
        if most_rows(trace.slice(0, middle), stages) < rows:
            low = middle
        else:
            high = middle
    return low


def _gpu_seconds_per_row(stages: Sequence[OracleStage]) -> float:
    if not stages:
        raise InputError.of("stages", [], "at least one stage")
    return sum(stage.gpu_seconds_per_row for stage in stages)


class _Program:
    """The matrices of the linear program.

    Columns: for each stage g, y and f, then b between stages, each over all steps.
    """

    def __init__(self, trace: Trace, stages: Sequence[OracleStage], dt: float) -> None:
        _gpu_seconds_per_row(stages)
        self._stages = stages
        self._dt = dt
        self._capacity = _mean_gpus(trace, dt)
        self._steps = len(self._capacity)
        self._blocks = 4 * len(stages) - 1

    def solve(self, rows: float) -> float:
        upper, limit = self._inequalities(rows)
        equal = self._buffers()
        found = scipy.optimize.linprog(
            self._cost(),
            A_ub=upper,
            b_ub=limit,
            A_eq=equal,
            b_eq=None if equal is None else np.zeros(equal.shape[0]),
            bounds=self._bounds(),
            method="highs",
        )
        if found.status != 0:
            raise InternalError(f"HiGHS found no optimum of {self._blocks * self._steps} variables: {found.message}")
        return -float(found.fun)

    def solve_whole(self, seconds: float) -> float:
        upper, limit = self._inequalities(math.inf)
        equal = self._buffers()
        whole = np.zeros(self._blocks * self._steps)
        for stage in range(len(self._stages)):
            whole[self._slice("g", stage)] = whole[self._slice("y", stage)] = 1
        constraints = [scipy.optimize.LinearConstraint(upper, ub=np.floor(limit + ROUNDING))]
        if equal is not None:
            constraints.append(scipy.optimize.LinearConstraint(equal, 0, 0))
        found = scipy.optimize.milp(
            self._cost(),
            integrality=whole,
            bounds=scipy.optimize.Bounds(*self._bounds().T),
            constraints=constraints,
            options={"time_limit": seconds, "mip_rel_gap": WHOLE_GAP},
        )
        if found.x is None:
            raise InternalError(f"HiGHS found no schedule in {seconds:g} s: {found.message}")
        return -float(found.fun)

    def _cost(self) -> FloatArray:
        cost = np.zeros(self._blocks * self._steps)
        cost[self._slice("f", len(self._stages) - 1)] = -1.0
        return cost

    def _block(self, kind: str, stage: int) -> int:
        return {"g": 0, "y": 1, "f": 2, "b": 3}[kind] * len(self._stages) + stage

    def _slice(self, kind: str, stage: int) -> slice:
        block = self._block(kind, stage)
        return slice(block * self._steps, (block + 1) * self._steps)

    def _row(self, parts: dict[tuple[str, int], scipy.sparse.spmatrix]) -> list[scipy.sparse.spmatrix | None]:
        row: list[scipy.sparse.spmatrix | None] = [None] * self._blocks
        for (kind, stage), matrix in parts.items():
            row[self._block(kind, stage)] = matrix
        return row

    def _inequalities(self, rows: float) -> tuple[scipy.sparse.csc_matrix, FloatArray]:
        steps = self._steps
        one = scipy.sparse.identity(steps, format="csr")
        before = scipy.sparse.eye(steps, k=-1, format="csr")
        matrix = []
        occupied: dict[tuple[str, int], scipy.sparse.spmatrix] = {}
        for index, stage in enumerate(self._stages):
            load = _steps(stage.load_seconds, self._dt)
            loaded = scipy.sparse.eye(steps, k=-load, format="csr")
            matrix.append(self._row({("g", index): one - before, ("y", index): -loaded}))
            rate = self._dt / stage.gpu_seconds_per_row
            matrix.append(self._row({("f", index): one, ("g", index): -rate * one}))
            occupied["g", index] = one
            if load:
                offsets = list(range(0, -min(load, steps), -1))
                occupied["y", index] = scipy.sparse.diags([1.0] * len(offsets), offsets, (steps, steps), format="csr")
        matrix.append(self._row(occupied))
        limits = [np.zeros(2 * len(self._stages) * steps), self._capacity]
        if math.isfinite(rows):
            matrix.append(self._row({("f", 0): scipy.sparse.csr_matrix(np.ones((1, steps)))}))
            limits.append(np.array([rows]))
        return self._stacked(matrix), np.concatenate(limits)

    def _buffers(self) -> scipy.sparse.csc_matrix | None:
        one = scipy.sparse.identity(self._steps, format="csr")
        kept = one - scipy.sparse.eye(self._steps, k=-1, format="csr")
        rows = [
            self._row({("b", stage): kept, ("f", stage): -one, ("f", stage + 1): one})
            for stage in range(len(self._stages) - 1)
        ]
        return self._stacked(rows) if rows else None

    def _stacked(self, rows: list[list[scipy.sparse.spmatrix | None]]) -> scipy.sparse.csc_matrix:
        """Stack block rows; an empty last row of zeros gives every column its width, and is cut off again."""
        widths = [scipy.sparse.csr_matrix((1, self._steps)) for _ in range(self._blocks)]
        return scipy.sparse.csc_matrix(scipy.sparse.bmat([*rows, widths], format="csr")[:-1])

    def _bounds(self) -> FloatArray:
        high = np.full((self._blocks, self._steps), np.inf)
        for index, stage in enumerate(self._stages):
            if stage.max_replicas is not None:
                high[self._block("g", index)] = stage.max_replicas * stage.gpus
            if index < len(self._stages) - 1:
                high[self._block("b", index)] = stage.buffer_rows
        flat = high.ravel()
        return np.column_stack([np.zeros_like(flat), flat])


def _mean_gpus(trace: Trace, dt: float) -> FloatArray:
    """Return the average GPUs of each step; the last step may reach beyond the trace, where there are none."""
    times, paid = [0.0], [0.0]
    for start, end, nodes in trace.windows():
        times.append(end)
        paid.append(paid[-1] + (end - start) * len(nodes) * trace.gpus_per_node)
    steps = max(1, math.ceil(trace.end_seconds / dt - ROUNDING))
    edges = np.arange(steps + 1) * dt
    means: FloatArray = np.diff(np.interp(edges, times, paid)) / dt
    return means
