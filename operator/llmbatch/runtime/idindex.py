"""Finding repeated row ids in 12 bytes a row, while the rows arrive shard by shard.

Ids are compared as 64-bit hashes, so a match is a suspicion: two different ids among 10^8 share a hash with a
chance of 3 in 10,000 (n^2 / 2^65). Whoever asks confirms it by reading the two shards' ids.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ID = 0
"""The hash of a row without an id, such as a line that could not be parsed; never compared."""
LARGEST_RUN = 1 << 24
"""Rows in a sorted run before it is merged no more: bounds the memory a merge takes to 0.6 GB."""

Hashes = NDArray[np.uint64]
Shards = NDArray[np.uint32]


def hash_id(row_id: str) -> int:
    """Return the 64-bit hash of an id, the same on every machine; `NO_ID` for an empty one."""
    if not row_id:
        return NO_ID
    digest = hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def encode_hashes(ids: Iterable[str]) -> str:
    """Return the hashes of a shard's ids, in row order, as base64 over little-endian u64."""
    return base64.b64encode(np.fromiter(map(hash_id, ids), dtype="<u8").tobytes()).decode()


def decode_hashes(text: str) -> Hashes:
    """Undo `encode_hashes`."""
    return np.frombuffer(base64.b64decode(text), dtype="<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True, slots=True)
class Suspect:
    """Two rows whose ids have the same hash."""

    hash: int
    """The hash both ids have."""
    earlier: str
    """The shard that was added first."""
    later: str
    """The shard that brought the hash again; the same one when both rows are in it."""


class IdIndex:
    """All ids seen so far, as sorted runs of (hash, shard number), merged as a log-structured tree is.

    Memory: 12 bytes a row and about 100 a shard. Time to add a shard of r rows: O(r log n) for each run, of
    which there are O(log n) up to `LARGEST_RUN` rows and one for every `LARGEST_RUN` rows beyond.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._shards: list[str] = []
        self._runs: list[tuple[Hashes, Shards]] = []

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._runs)

    def add(self, shard: str, hashes: Hashes) -> list[Suspect]:
        """Add a shard's hashes and return those seen before, at most one a hash.

        A shard that was added already is left out: a commit may be reported more than once.
        """
        if shard in self._numbers:
            return []
        number = self._numbers[shard] = len(self._shards)
        self._shards.append(shard)
        ordered = np.sort(hashes[hashes != NO_ID])
        suspects = [
            Suspect(int(value), shard, shard) for value in np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        ]
        fresh = np.unique(ordered)
        for known, owners in self._runs:
            suspects += self._matches(fresh, known, owners, shard)
        self._append(fresh, np.full(len(fresh), number, dtype=np.uint32))
        return suspects

    def _matches(self, fresh: Hashes, known: Hashes, owners: Shards, shard: str) -> list[Suspect]:
        places = np.minimum(np.searchsorted(known, fresh), len(known) - 1)
        hits = known[places] == fresh
        return [
            Suspect(int(value), self._shards[int(owner)], shard)
            for value, owner in zip(fresh[hits], owners[places[hits]], strict=True)
        ]

    def _append(self, hashes: Hashes, owners: Shards) -> None:
        if len(hashes) == 0:
            return
        self._runs.append((hashes, owners))
        while len(self._runs) > 1 and self._should_merge():
            (left, left_owners), (right, right_owners) = self._runs[-2:]
            merged = np.concatenate([left, right])
            order = np.argsort(merged, kind="stable")
            self._runs[-2:] = [(merged[order], np.concatenate([left_owners, right_owners])[order])]

    def _should_merge(self) -> bool:
        before, last = len(self._runs[-2][0]), len(self._runs[-1][0])
        return before <= 2 * last and before + last <= LARGEST_RUN
