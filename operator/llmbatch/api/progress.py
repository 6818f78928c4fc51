"""Progress: what the runtime answers. Rebuilt from the ledger and the pools, never durable."""

from __future__ import annotations

from typing import Literal

from llmbatch.api.base import Document
from llmbatch.api.job import RowProgress

RunState = Literal["starting", "running", "paused", "complete", "failed"]
FINAL_LINE = "llmbatch-progress "
"""How the line of a driver's log begins that holds its last Progress, as JSON."""


class PoolProgress(Document):
    """One stage's actor pool."""

    name: str
    """The stage."""
    target: int = 0
    """Replicas the allocation wants."""
    ready: int = 0
    """Replicas that take work."""
    pending: int = 0
    """Replicas that wait for a GPU or load their model."""
    restarting: int = 0
    """Replicas that lost their node."""
    retiring: int = 0
    """Replicas that finish what they have and leave."""
    queued_rows: int = 0
    """Rows waiting for the stage."""
    in_flight_rows: int = 0
    """Rows inside its replicas."""
    rows_completed: int = 0
    """Rows the stage finished in this attempt."""
    rows_per_second: float = 0.0
    """Rows finished a second, over the last ten seconds."""
    tokens_per_second: float = 0.0
    """Rows finished a second, times the tokens (read and generated) a row of the stage had so far."""
    service_seconds_per_row: float | None = None
    """Measured replica-seconds a row, times GPUs a replica (GPU-seconds a row on GPUs)."""
    load_seconds: float | None = None
    """Measured mean time a replica takes to start and load its model."""
    explanation: str = ""
    """Why the target is what it is, in words."""


class Drains(Document):
    """How workers on notice went."""

    clean: int = 0
    """With nothing on them, before their deadline."""
    late: int = 0
    """With nothing on them, after their deadline."""
    missed: int = 0
    """With work on them, which runs again."""


class Progress(Document):
    """How far the run is, how fast, and what holds it up."""

    state: RunState = "starting"
    """Where the run is in its life."""
    spec_hash: str = ""
    """Which spec it runs."""
    attempt: int = 1
    """Which attempt."""
    elapsed_seconds: float = 0.0
    """Since this attempt began."""
    rows: RowProgress = RowProgress()
    """Rows and tokens of the whole job, earlier attempts included."""
    rows_per_second: float = 0.0
    """Rows committed a second, over the last ten seconds."""
    shards_committed: int = 0
    """Shards in the ledger."""
    shards_skipped: int = 0
    """Shards that an earlier attempt committed and this one did not read again."""
    rows_repeated: int = 0
    """Rows that ran again in this attempt although their shard was committed already."""
    drains: Drains = Drains()
    """How workers on notice went, in this attempt."""
    pools: tuple[PoolProgress, ...] = ()
    """The stages, in order."""
    gpus: int = 0
    """GPUs in the Ray cluster now; with policy `stock` nobody counts them, and it is 0."""
    useful_gpus: int | None = None
    """GPUs the job could use now; the controller asks for no more."""
    allocation_policy: str = ""
    """Which policy decides; `stock` with a reason in `warnings` when ours could not start."""
    stall_reason: str = ""
    """Why nothing moves, if nothing moves."""
    warnings: tuple[str, ...] = ()
    """What a user should know, such as a simulated engine."""
    error: str = ""
    """Why the run failed."""
