"""A job in virtual time: nodes that come and go with a trace, replicas that load, take batches and are lost.

The unit of work is a batch. A batch that is in work when its node goes is put back before its stage, and the
GPU-seconds it had are counted as redo. A stage does not start a batch that would overfill the buffer behind it.
Every GPU-second is put into one part of the waterfall; `spent` adds up to what the trace offers.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmbatch.core.capacity.trace import Change, Trace
from llmbatch.core.stages.balance import next_to_start
from llmbatch.core.stages.delays import Delays
from llmbatch.core.stages.model import Estimate
from llmbatch.errors import InputError
from llmbatch.simulator.compare import WATERFALL, Series
from llmbatch.simulator.processors import Processors

JITTER = 0.2
"""Batches take their service time within this share, evenly spread, so that the mean stays."""


@dataclass(frozen=True)
class SimulatedStage:
    """A stage: seconds a replica needs for a batch, seconds in which a new one loads its model, GPUs a replica."""

    name: str
    service_seconds: float
    load_seconds: float
    gpus: int = 1

    def __post_init__(self) -> None:
        if not self.service_seconds > 0:
            raise InputError.of(f"service of {self.name}", self.service_seconds, "more than 0 s a batch")
        if not self.load_seconds >= 0:
            raise InputError.of(f"load of {self.name}", self.load_seconds, "0 s or more")
        if self.gpus < 1:
            raise InputError.of(f"gpus of {self.name}", self.gpus, "at least 1 a replica")


@dataclass(frozen=True)
class Workload:
    """A chain of stages, rows a batch, batches that may wait before a stage, and seconds of notice.

    The policy is asked every `tick_seconds`, and at every change of the nodes. `delays` come on top.
    """

    stages: Sequence[SimulatedStage]
    batch_rows: int = 16
    buffer_batches: int = 125
    notice_seconds: float = 0.0
    tick_seconds: float = 5.0
    delays: Delays = field(default_factory=Delays)


@dataclass(eq=False)
class Replica:
    """A replica: its process starts, it loads, then it is idle or in work. `lost` ones wait for somebody to notice."""

    stage: int
    node: str
    gpus: int
    since: float
    ready: bool = False
    busy: bool = False
    retiring: bool = False
    lost: bool = False


@dataclass
class Pool:
    """A stage's replicas, the batches that wait for them, and what their starts took."""

    stage: SimulatedStage
    load: Estimate
    replicas: list[Replica] = field(default_factory=list)
    idle: dict[Replica, None] = field(default_factory=dict)
    queued: float = 0
    in_work: int = 0
    finished: int = 0
    idle_since: float = 0.0
    idle_gpus: int = 0
    idle_part: str = "starved"

    @property
    def working(self) -> list[Replica]:
        """Replicas that do not leave."""
        return [replica for replica in self.replicas if not replica.retiring]


class Policy(Protocol):
    """Which stage gets how many replicas.

    What it is shown is what is known: a node that is lost is still there, without free GPUs, until that is noticed.
    """

    late_drain: bool
    """Whether doomed replicas take no batch that they cannot finish before the deadline."""

    def targets(self, now: float, pools: Sequence[Pool], free: dict[str, int], doomed: dict[str, float]) -> list[int]:
        """Return replicas by stage. `free` are GPUs of each node that is not doomed, `doomed` nodes' deadlines."""

    def restarts(self) -> bool:
        """Return whether the loss of a node ends every replica."""


@dataclass(frozen=True)
class Run:
    """What came of it. `seconds` end with the input or the trace, `spent` are GPU-seconds by part of the waterfall."""

    rows: int
    seconds: float
    gpu_seconds: float
    spent: dict[str, float]
    series: Series


class World:
    """One run of one policy on one trace; `run` may be called once."""

    def __init__(
        self, trace: Trace, workload: Workload, policy: Policy, *, seed: int = 0, rows: int | None = None
    ) -> None:
        self._trace = trace
        self._workload = workload
        self._policy = policy
        self._random = random.Random(seed)  # noqa: S311 - luck of a simulation
        self._delays = workload.delays
        start = self._delays.start_seconds
        self._pools = [Pool(stage, Estimate(stage.load_seconds + start)) for stage in workload.stages]
        self._todo = math.inf if rows is None else math.ceil(rows / workload.batch_rows)
        self._pools[0].queued = self._todo
        self._free: dict[str, int] = {}
        self._doomed: dict[str, float] = {}
        self._joining: set[str] = set()
        self._unnoticed: set[str] = set()
        self._processors: Processors[Replica] = Processors(self._delays.cores or 1)
        self._done = 0
        self._now = 0.0
        self._order = 0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._spent = dict.fromkeys(WATERFALL, 0.0)
        self._free_since = 0.0
        self._free_gpus = 0
        self._samples: list[tuple[float, int, list[int], int, list[float], int]] = []

    def run(self) -> Run:
        """Play the trace to its end, or to the end of the input."""
        for change in self._trace.changes():
            self._at(change.seconds, self._change, change)
            if change.removed and self._workload.notice_seconds:
                notice = max(0.0, change.seconds - self._workload.notice_seconds)
                self._at(notice, self._notice, (change.removed, change.seconds))
        self._at(self._delays.begin_seconds, self._tick, None)
        end = self._trace.end_seconds
        while self._events and self._events[0][0] < end and self._done < self._todo:
            self._now, _, handle, what = heapq.heappop(self._events)
            handle(what)
        self._now = self._now if self._done >= self._todo else end
        return self._result()

    def _at(self, seconds: float, handle: Callable[[Any], None], what: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (seconds, self._order, handle, what))

    def _tick(self, _: None) -> None:
        self._decide()
        self._at(self._now + self._workload.tick_seconds, self._tick, None)
        self._sample()

    def _notice(self, noticed: tuple[Sequence[str], float]) -> None:
        nodes, deadline = noticed
        self._doomed |= {node: deadline for node in nodes if node in self._free}
        self._decide()

    def _change(self, change: Change) -> None:
        for node in change.removed:
            self._settle_free(-self._free.pop(node))
            self._joining.discard(node)
            self._lose(node)
        if change.removed and self._delays.loss_seconds:
            self._at(self._now + self._delays.loss_seconds, self._noticed, change.removed)
        elif change.removed:
            self._take_in(change.removed)
        for number, node in enumerate(change.added, 1):
            self._free[node] = 0
            self._give(node, self._trace.gpus_per_node)
            if self._delays.join_seconds and change.seconds:
                self._joining.add(node)
                self._at(self._now + number * self._delays.join_seconds, self._joined, node)
        self._decide()
        self._sample()

    def _lose(self, node: str) -> None:
        """Stop what is on a node; nobody knows yet."""
        self._unnoticed.add(node)
        for pool in self._pools:
            for replica in pool.replicas:
                if replica.node == node:
                    self._stop(replica)

    def _noticed(self, nodes: Sequence[str]) -> None:
        self._take_in(nodes)
        self._decide()

    def _take_in(self, nodes: Sequence[str]) -> None:
        """Take in that nodes are lost."""
        self._unnoticed -= set(nodes)
        restarts = self._policy.restarts()
        for node in nodes:
            self._doomed.pop(node, None)
        for pool in self._pools:
            for replica in list(pool.replicas):
                if replica.lost and replica.node in nodes:
                    self._forget(replica)
                elif restarts and not replica.lost:
                    self._end(replica)

    def _joined(self, node: str) -> None:
        self._joining.discard(node)
        self._decide()

    def _decide(self) -> None:
        if self._now < self._delays.begin_seconds:
            return
        free = {node: gpus for node, gpus in self._usable().items() if node not in self._doomed}
        free |= dict.fromkeys(self._unnoticed - self._doomed.keys(), 0)
        targets = self._policy.targets(self._now, self._pools, free, self._doomed)
        for pool, target in zip(self._pools, targets, strict=True):
            for replica in sorted(pool.working, key=lambda replica: (replica.ready, replica.busy))[
                : max(0, len(pool.working) - target)
            ]:
                replica.retiring = True
                if not (replica.busy or replica.lost):
                    self._end(replica)
        self._start_missing(list(targets))
        self._dispatch_all()

    def _usable(self) -> dict[str, int]:
        return {node: gpus for node, gpus in self._free.items() if node not in self._joining}

    def _start_missing(self, wanted: list[int]) -> None:
        """Start replicas, the first stage's first; in the runtime's order where only some may start at a time."""
        have = [len(pool.working) for pool in self._pools]
        waiting = [pool.queued >= 1 for pool in self._pools]
        starting = sum(not (replica.ready or replica.lost) for pool in self._pools for replica in pool.replicas)
        most = self._delays.most_starting
        while most is None or starting < most:
            index = _first_short(have, wanted) if most is None else next_to_start(have, wanted, waiting)
            if index is None:
                return
            if self._start(index, self._pools[index]):
                have[index] += 1
                starting += 1
            else:
                wanted[index] = have[index]

    def _start(self, index: int, pool: Pool) -> bool:
        """Start a replica on the fullest node it fits."""
        fits = [node for node, gpus in self._usable().items() if gpus >= pool.stage.gpus and node not in self._doomed]
        if not fits:
            return False
        node = min(fits, key=lambda name: (self._free[name], name))
        self._give(node, -pool.stage.gpus)
        replica = Replica(index, node, pool.stage.gpus, self._now)
        pool.replicas.append(replica)
        if self._delays.cores is None:
            self._at(self._now + self._delays.start_seconds + pool.stage.load_seconds, self._loaded, replica)
        else:
            self._processors.add(self._now, replica, self._delays.start_seconds)
            self._look_at_processors()
        return True

    def _look_at_processors(self) -> None:
        """Have the next process that ends noticed; what ends earlier or later by then is looked at again."""
        if not math.isinf(end := self._processors.next_end()):
            self._at(max(self._now, end), self._processes_started, None)

    def _processes_started(self, _: None) -> None:
        for replica in self._processors.done(self._now):
            self._at(self._now + self._pools[replica.stage].stage.load_seconds, self._loaded, replica)
        self._look_at_processors()

    def _loaded(self, replica: Replica) -> None:
        if replica.lost:
            return
        pool = self._pools[replica.stage]
        # What a difference of two times loses in its last digits must not sway a decision.
        pool.load = pool.load.update(round(self._now - replica.since, 6))
        self._spend("load", replica)
        replica.ready = True
        self._rest(pool, replica)
        self._dispatch(replica.stage)

    def _dispatch_all(self) -> None:
        for index in reversed(range(len(self._pools))):
            self._dispatch(index)

    def _dispatch(self, index: int) -> None:
        pool = self._pools[index]
        if pool.idle and pool.queued >= 1:
            for replica in list(pool.idle):
                if not self._room(index) or pool.queued < 1:
                    break
                if self._in_time(replica):
                    self._begin(pool, replica)
        part = "blocked" if pool.queued >= 1 and not self._room(index) else "starved"
        if part != pool.idle_part:
            self._settle_idle(pool, 0)
            pool.idle_part = part

    def _room(self, index: int) -> bool:
        if index + 1 == len(self._pools):
            return True
        return self._pools[index + 1].queued + self._pools[index].in_work < self._workload.buffer_batches

    def _in_time(self, replica: Replica) -> bool:
        """Return whether a batch ends before the node does, where the policy drains late."""
        deadline = self._doomed.get(replica.node, math.inf)
        longest = self._pools[replica.stage].stage.service_seconds * (1 + JITTER)
        return not self._policy.late_drain or self._now + longest <= deadline

    def _begin(self, pool: Pool, replica: Replica) -> None:
        self._wake(pool, replica)
        replica.busy, replica.since = True, self._now
        pool.queued -= 1
        pool.in_work += 1
        seconds = pool.stage.service_seconds * (1 + JITTER * (2 * self._random.random() - 1))
        self._at(self._now + seconds, self._finished, replica)

    def _finished(self, replica: Replica) -> None:
        if replica.lost:
            return
        index = replica.stage
        pool = self._pools[index]
        self._spend("useful", replica)
        replica.busy = False
        pool.in_work -= 1
        pool.finished += 1
        self._rest(pool, replica)
        if index + 1 == len(self._pools):
            self._done += 1
        else:
            self._pools[index + 1].queued += 1
        if replica.retiring:
            self._end(replica)
            self._decide()
        for near in (index + 1, index, index - 1):
            if 0 <= near < len(self._pools):
                self._dispatch(near)

    def _end(self, replica: Replica) -> None:
        """Take a replica away; a batch it had in work is put back."""
        self._stop(replica)
        self._forget(replica)
        self._give(replica.node, replica.gpus)

    def _stop(self, replica: Replica) -> None:
        if replica.busy:
            self._spend("redo", replica)
        elif replica.ready:
            self._wake(self._pools[replica.stage], replica)
        else:
            self._spend("load", replica)
            self._processors.remove(self._now, replica)
        replica.lost = True

    def _forget(self, replica: Replica) -> None:
        pool = self._pools[replica.stage]
        pool.replicas.remove(replica)
        if replica.busy:
            pool.in_work -= 1
            pool.queued += 1

    def _spend(self, part: str, replica: Replica) -> None:
        self._spent[part] += (self._now - replica.since) * replica.gpus

    def _rest(self, pool: Pool, replica: Replica) -> None:
        pool.idle[replica] = None
        self._settle_idle(pool, replica.gpus)

    def _wake(self, pool: Pool, replica: Replica) -> None:
        del pool.idle[replica]
        self._settle_idle(pool, -replica.gpus)

    def _settle_idle(self, pool: Pool, gpus: int) -> None:
        """Account for the idle GPUs of a stage until now, then add some."""
        self._spent[pool.idle_part] += (self._now - pool.idle_since) * pool.idle_gpus
        pool.idle_since = self._now
        pool.idle_gpus += gpus

    def _give(self, node: str, gpus: int) -> None:
        self._free[node] += gpus
        self._settle_free(gpus)

    def _settle_free(self, gpus: int) -> None:
        self._spent["unallocated"] += (self._now - self._free_since) * self._free_gpus
        self._free_since = self._now
        self._free_gpus += gpus

    def _sample(self) -> None:
        there = [[replica for replica in pool.replicas if not replica.lost] for pool in self._pools]
        ready = [sum(replica.gpus for replica in replicas if replica.ready) for replicas in there]
        held = sum(replica.gpus for replicas in there for replica in replicas)
        queued = [pool.queued for pool in self._pools]
        gpus = len(self._free) * self._trace.gpus_per_node
        self._samples.append((self._now, gpus, ready, held - sum(ready), queued, self._done))

    def _result(self) -> Run:
        """Close the books: what is in work at the end counts as useful."""
        self._sample()
        self._settle_free(0)
        for pool in self._pools:
            self._settle_idle(pool, 0)
            for replica in pool.replicas:
                if not replica.lost and (not replica.ready or replica.busy):
                    self._spend("useful" if replica.ready else "load", replica)
        paid = self._trace.slice(0, self._now).gpu_seconds() if self._now else 0.0
        return Run(self._done * self._workload.batch_rows, self._now, paid, self._spent, self._series())

    def _series(self) -> Series:
        names = [pool.stage.name for pool in self._pools]
        rows = self._workload.batch_rows
        return Series(
            seconds=[sample[0] for sample in self._samples],
            gpus=[sample[1] for sample in self._samples],
            ready={name: [sample[2][index] for sample in self._samples] for index, name in enumerate(names)},
            loading=[sample[3] for sample in self._samples],
            queued={
                name: [sample[4][index] * rows for sample in self._samples]
                for index, name in enumerate(names)
                if not math.isinf(self._pools[index].queued)
            },
            committed=[sample[5] * rows for sample in self._samples],
        )


def _first_short(have: Sequence[int], wanted: Sequence[int]) -> int | None:
    return next((index for index, count in enumerate(wanted) if have[index] < count), None)
