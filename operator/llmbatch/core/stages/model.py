"""What the allocation of GPUs to stages reads and answers: plain values, in rows, seconds and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

SMOOTHING = 0.2
"""Weight of a new measurement once enough are there: about the last ten count."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value, or what is believed before the first measurement (`samples` 0)."""

    value: float
    samples: int = 0

    def update(self, measured: float) -> Estimate:
        """Take in a measurement: the mean of the first few, an exponentially weighted one from then on."""
        weight = max(SMOOTHING, 1 / (self.samples + 1))
        return Estimate(self.value + weight * (measured - self.value), self.samples + 1)


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica. `node` is None while it has none."""

    id: str
    node: str | None
    state: Literal["ready", "loading", "restarting", "retiring"] = "ready"
    in_flight_rows: int = 0
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolView:
    """One stage's actor pool.

    `gpus` and `cpus` are a replica's; `accelerator` is the type its node must have, empty for any. `service` is in
    GPU-seconds a row (replica-seconds where a replica has no GPU), `load_seconds` from the start of a replica until
    it takes rows, `batch_p95_seconds` the 95th percentile of what a replica needs for what it was given.
    `upstream_done` says that no row will come from the stage before it any more, `done` that it gets none
    any more.
    `finished_rows` are those it handed on since the job began to run.
    """

    stage: str
    min_replicas: int
    max_replicas: int
    service: Estimate
    load_seconds: Estimate
    batch_p95_seconds: Estimate
    gpus: int = 1
    cpus: float = 1.0
    accelerator: str = ""
    replicas: Sequence[ReplicaView] = ()
    queued_rows: int = 0
    in_flight_rows: int = 0
    finished_rows: int = 0
    batch_rows: int = 1
    upstream_done: bool = False
    done: bool = False

    def may_use(self, accelerator: str) -> bool:
        """Tell whether a replica may be on a node with this type of accelerator."""
        return self.accelerator in ("", accelerator)

    def closed(self) -> PoolView:
        """Return the stage as one that gets no more rows: what waits for it stays where it is."""
        return replace(self, queued_rows=0, upstream_done=True, done=True)


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node. `deadline` (Unix seconds) is set once it is known when it goes."""

    id: str
    gpus: int
    cpus: float = 0.0
    accelerator: str = ""
    deadline: float | None = None
    draining_now: bool = False

    @property
    def healthy(self) -> bool:
        """Whether the node is expected to stay."""
        return self.deadline is None and not self.draining_now


@dataclass(frozen=True, slots=True)
class CapacityView:
    """The nodes that are there, the GPUs on their way, and the GPUs the job may hold (None: no limit)."""

    nodes: Sequence[NodeView]
    gpus_arriving: int = 0
    gpus_granted: int | None = None


@dataclass(frozen=True, slots=True)
class AllocationOptions:
    """What a user may choose. `buffer_rows` may wait before a stage."""

    policy: Literal["balanced", "rayReservation"] = "balanced"
    reservation_ratio: float = 0.5
    buffer_rows: int = 2000
    drain_margin_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a stage should have.

    `replicas` counts those on nodes that stay and that do not retire; `retire` names the replicas that get no more
    rows: more than the target, or on a node that is about to go. `explanation` says why, in words.
    """

    stage: str
    replicas: int
    retire: frozenset[str] = field(default_factory=frozenset)
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What every stage should have, the GPUs that the job could use, and why nothing moves (empty if it does)."""

    targets: Sequence[Target]
    useful_gpus: int
    stall_reason: str = ""
