"""Finding repeated row ids in 8 bytes of disk a row, while the rows are committed shard by shard.

Ids are compared as 64-bit hashes, so a match is a suspicion: two different ids among 10^8 share a hash with a
chance of 3 in 10,000 (n^2 / 2^65). Whoever asks confirms it by reading the ids themselves.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llmbatch.errors import OutputError

NO_ID = 0
"""The hash of a row without an id, such as a line that could not be parsed; never compared."""
BATCH_ROWS = 1 << 17
"""Rows compared at a time: one by one, the same work takes ten times as long (cache misses)."""
LARGEST_RUN = 1 << 24
"""Rows of a sorted run that is merged no more: bounds the time of a merge to a second or two."""

Hashes = NDArray[np.uint64]


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


class IdIndex:
    """All ids seen so far, as sorted runs of hashes, merged as a log-structured tree is.

    Runs are files in the temporary folder, 8 bytes a row, mapped into memory, so that the kernel may take their pages
    back. What has to stay in memory is a batch and about 100 bytes a shard. Time: O(log n) a row until a run has
    `LARGEST_RUN` rows, and one more search for every full run.
    """

    def __init__(self) -> None:
        self._shards: set[str] = set()
        self._batch: list[Hashes] = []
        self._batch_rows = 0
        self._runs: list[Hashes] = []

    def __len__(self) -> int:
        return self._batch_rows + sum(map(len, self._runs))

    def add(self, shard: str, hashes: Hashes) -> Hashes:
        """Add a shard's hashes, and return what `flush` returns once `BATCH_ROWS` rows have gathered.

        A shard that was added already is left out: a commit may be reported more than once.

        Raises:
            OutputError: as `flush`.
        """
        if shard not in self._shards:
            self._shards.add(shard)
            self._batch.append(hashes[hashes != NO_ID])
            self._batch_rows += len(self._batch[-1])
        return self.flush() if self._batch_rows >= BATCH_ROWS else _NOTHING

    def flush(self) -> Hashes:
        """Compare what was added since the last flush, and return the hashes that are there twice or more.

        Raises:
            OutputError: the temporary folder cannot hold them.
        """
        if not self._batch:
            return _NOTHING
        ordered = np.sort(np.concatenate(self._batch))
        self._batch, self._batch_rows = [], 0
        repeated = [ordered[1:][ordered[1:] == ordered[:-1]]]
        fresh = np.unique(ordered)
        for run in self._runs:
            known = run[np.minimum(np.searchsorted(run, fresh), len(run) - 1)] == fresh
            repeated.append(fresh[known])
            fresh = fresh[~known]
        self._append(fresh)
        return np.unique(np.concatenate(repeated))

    def _append(self, run: Hashes) -> None:
        if not len(run):
            return
        merging, rows = [run], len(run)
        while self._runs and len(self._runs[-1]) <= min(2 * rows, LARGEST_RUN - rows):
            merging.append(self._runs.pop())
            rows += len(merging[-1])
        self._runs.append(_merged_on_disk(merging))


def _merged_on_disk(runs: list[Hashes]) -> Hashes:
    """Return the hashes of some runs in order, in a file that is gone when nobody has them any more."""
    try:
        with tempfile.TemporaryFile(prefix="llmbatch-ids-") as file:
            # Written before it is mapped: on a full disk a write fails, and a mapping ends the process.
            for run in runs:
                file.write(run.data)
            file.flush()
            merged = np.asarray(np.memmap(file, dtype=np.uint64, mode="r+"))
    except OSError as error:
        raise OutputError.of(
            "TMPDIR",
            tempfile.gettempdir(),
            f"{error.strerror}: finding repeated ids takes 16 bytes of disk a row: make room there, name another "
            "folder in TMPDIR, or set input.uniqueIds to trust; what is committed stays",
        ) from error
    merged.sort()
    return merged


_NOTHING: Hashes = np.empty(0, dtype=np.uint64)
