"""Events as the API server takes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllerkit import job
from llmbatch.cluster.apply import NOTE_LENGTH, Applier
from llmbatch.core.job.plan import EmitEvent


class Kube:
    """An API server that keeps what is created."""

    async def create(self, _: str, body: dict[str, Any]) -> None:
        self.created = body


@pytest.mark.parametrize(
    "message", ["no space left", "x" * 5000, "磁盘已满" * 500], ids=["short", "long", "long, not ASCII"]
)
def test_a_note_keeps_within_its_bytes(message: str):
    kube: Any = Kube()
    heads: Any = None
    event = EmitEvent(type="Warning", reason="Failed", message=message)
    asyncio.run(Applier(kube, heads, "test").emit(job(), event))
    note = kube.created["note"]
    assert len(note.encode()) <= NOTE_LENGTH
    assert message.startswith(note)
    assert len(note.encode()) > NOTE_LENGTH - 4 or note == message
