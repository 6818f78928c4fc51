"""Capacity: the desired state the controller keeps telling the runtime. Level-triggered, repeatable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmbatch.api.base import Document

PAUSE_SECONDS = 300.0
"""Longest time a driver gets to finish what is in flight. What it does not commit is done again."""


class DoomedWorker(Document):
    """A worker that will go."""

    worker: str
    """Worker pod, or in local mode the Ray node id."""
    address: str | None = None
    """The pod's address, by which the runtime finds the Ray node."""
    ray_node_id: str | None = None
    """Ray's hex node id, where the sender knows it."""
    kind: Literal["draining", "reclaim", "lost"]
    """draining (asked to leave), reclaim (will be killed at the deadline) or lost (gone already)."""
    deadline: float | None = None
    """When it is killed, Unix seconds; absent when unknown."""


class Capacity(Document):
    """What the runtime may count on."""

    sequence: int = 0
    """Grows with every change; an older document is ignored."""
    doomed: tuple[DoomedWorker, ...] = ()
    """Workers that will go. One that is left out again was withdrawn."""
    gpus_granted: Annotated[int, Field(ge=0)] | None = None
    """GPUs the job may use; absent: all there are."""
    gpus_arriving: Annotated[int, Field(ge=0)] = 0
    """GPUs asked for that have not joined yet."""
    pause: bool = False
    """Begin no more rows, commit those in flight, and end."""
