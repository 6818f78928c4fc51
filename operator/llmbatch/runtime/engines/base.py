"""What every engine that runs inside llmbatch's own replicas offers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput


class Engine(Protocol):
    """One loaded model, or one connection to one. A replica makes it once."""

    def run(self, requests: Sequence[Request]) -> list[StageOutput | RowError]:
        """Answer a batch: one result a request, in order. A request that fails is a RowError."""
        ...


def row_seed(seed: int, row_id: str) -> int:
    """Return the sampling seed of one row, 0 to 2^31 - 1: the same whenever and wherever the row runs."""
    digest = hashlib.blake2b(f"{seed}:{row_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
