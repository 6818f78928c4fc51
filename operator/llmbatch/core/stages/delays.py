"""What processes and nodes take beside the model: the defaults of the runtime's estimates and of the simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmbatch.errors import InputError

PROCESS_START_SECONDS = 1.5
"""A Ray worker process and its imports, before a replica loads its model: what starts took beyond the load in runs of
`benchmarks/local_preemption.py`, 1.1 to 1.6 s on two cores that they share; 0.9 s where nothing else starts."""
LOSS_SECONDS = 1.0
"""From the loss of a node until its batches are back in the queue, where the run is told of it: the mean of the same
runs, 0.6 to 1.2 s. Ray alone takes 13 s or more."""


@dataclass(frozen=True, slots=True)
class Delays:
    """What is added to the times of the stages; by default nothing is.

    `begin_seconds` pass until the first replica is started. `start_seconds` of a processor are the process of a replica
    and its imports, before its model loads; replicas that start share `cores`, and `most_starting` do at a time (None:
    each node has its own). `join_seconds` pass until a node of the trace takes replicas; one after another, where nodes
    share a machine. `loss_seconds` pass until a lost node is noticed.
    """

    begin_seconds: float = 0.0
    start_seconds: float = 0.0
    cores: int | None = None
    most_starting: int | None = None
    join_seconds: float = 0.0
    loss_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("begin_seconds", "start_seconds", "join_seconds", "loss_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError.of(name, getattr(self, name), "0 s or more, and finite")
