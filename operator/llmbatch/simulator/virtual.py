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
from llmbatch.errors import InputError
from llmbatch.simulator.compare import WATERFALL, Series

JITTER = 0.2
"""Batches take their service time within this share, evenly spread, so that the mean stays."""


@dataclass(frozen=True)
class SimulatedStage:
    """A stage: seconds a replica needs for a batch, seconds until a new replica takes one, GPUs a replica."""

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

    The policy is asked every `tick_seconds`, and at every change of the nodes.
    """

    stages: Sequence[SimulatedStage]
    batch_rows: int = 16
    buffer_batches: int = 125
    notice_seconds: float = 0.0
    tick_seconds: float = 5.0


@dataclass(eq=False)
class Replica:
    """A replica: loading until `ready_at`, then idle or in work."""

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
    """A stage's replicas and the batches that wait for them."""

    stage: SimulatedStage
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
    """Which stage gets how many replicas."""

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
        self._pools = [Pool(stage) for stage in workload.stages]
        self._todo = math.inf if rows is None else math.ceil(rows / workload.batch_rows)
        self._pools[0].queued = self._todo
        self._free: dict[str, int] = {}
        self._doomed: dict[str, float] = {}
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
        self._at(0.0, self._tick, None)
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
            self._doomed.pop(node, None)
            for pool in self._pools:
                for replica in [replica for replica in pool.replicas if replica.node == node]:
                    self._end(replica, node_lost=True)
        if change.removed and self._policy.restarts():
            for pool in self._pools:
                for replica in list(pool.replicas):
                    self._end(replica)
        for node in change.added:
            self._free[node] = 0
            self._give(node, self._trace.gpus_per_node)
        self._decide()
        self._sample()

    def _decide(self) -> None:
        free = {node: gpus for node, gpus in self._free.items() if node not in self._doomed}
        targets = self._policy.targets(self._now, self._pools, free, self._doomed)
        for pool, target in zip(self._pools, targets, strict=True):
            for replica in sorted(pool.working, key=lambda replica: (replica.ready, replica.busy))[
                : max(0, len(pool.working) - target)
            ]:
                replica.retiring = True
                if not replica.busy:
                    self._end(replica)
        for index, (pool, target) in enumerate(zip(self._pools, targets, strict=True)):
            while len(pool.working) < target and self._start(index, pool):
                pass
        self._dispatch_all()

    def _start(self, index: int, pool: Pool) -> bool:
        """Start a replica on the fullest node it fits."""
        fits = [node for node, gpus in self._free.items() if gpus >= pool.stage.gpus and node not in self._doomed]
        if not fits:
            return False
        node = min(fits, key=lambda name: (self._free[name], name))
        self._give(node, -pool.stage.gpus)
        replica = Replica(index, node, pool.stage.gpus, self._now)
        pool.replicas.append(replica)
        self._at(self._now + pool.stage.load_seconds, self._loaded, replica)
        return True

    def _loaded(self, replica: Replica) -> None:
        if replica.lost:
            return
        self._spend("load", replica)
        replica.ready = True
        self._rest(self._pools[replica.stage], replica)
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

    def _end(self, replica: Replica, *, node_lost: bool = False) -> None:
        """Take a replica away; a batch it had in work is put back."""
        pool = self._pools[replica.stage]
        if replica.busy:
            self._spend("redo", replica)
            pool.in_work -= 1
            pool.queued += 1
        elif replica.ready:
            self._wake(pool, replica)
        else:
            self._spend("load", replica)
        replica.lost = True
        pool.replicas.remove(replica)
        if not node_lost:
            self._give(replica.node, replica.gpus)

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
        ready = [sum(replica.gpus for replica in pool.replicas if replica.ready) for pool in self._pools]
        held = sum(replica.gpus for pool in self._pools for replica in pool.replicas)
        queued = [pool.queued for pool in self._pools]
        there = len(self._free) * self._trace.gpus_per_node
        self._samples.append((self._now, there, ready, held - sum(ready), queued, self._done))

    def _result(self) -> Run:
        """Close the books: what is in work at the end counts as useful."""
        self._sample()
        self._settle_free(0)
        for pool in self._pools:
            self._settle_idle(pool, 0)
            for replica in pool.replicas:
                if not replica.ready or replica.busy:
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
