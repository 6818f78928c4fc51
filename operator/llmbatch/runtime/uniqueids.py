"""Refusing a job whose input repeats an id, soon after both rows are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmbatch.errors import DuplicateIdError
from llmbatch.runtime.idindex import Hashes, IdIndex, decode_hashes, hash_id
from llmbatch.runtime.parts import ids_in, read_part
from llmbatch.runtime.shards import ShardKey, own_id_field

if TYPE_CHECKING:
    from llmbatch.api.job import Input
    from llmbatch.runtime.ledger import Ledger
    from llmbatch.runtime.records import Commit, Manifest


class UniqueIds:
    """Checks each commit against all before it. Needs 8 bytes of disk a row; see `IdIndex`."""

    def __init__(self, ledger: Ledger, manifest: Manifest, source: Input) -> None:
        self._ledger = ledger
        self._manifest = manifest
        self._id_field = own_id_field(source)
        self._index = IdIndex()

    def add(self, commit: Commit) -> None:
        """Take a commit in; one that was taken in already is left out. Compares some 10^5 rows at a time.

        Raises:
            DuplicateIdError: an id was committed twice; the message names it and both places.
        """
        if commit.id_hashes:
            self._confirm(self._index.add(commit.shard, decode_hashes(commit.id_hashes)))

    def finish(self) -> None:
        """Compare what `add` has not compared yet.

        Raises:
            DuplicateIdError: as `add`.
        """
        self._confirm(self._index.flush())

    def _confirm(self, suspects: Hashes) -> None:
        if len(suspects) == 0:
            return
        # Rare, and nearly always the end of the job: so every commit may be read to find the places.
        places: dict[str, str] = {}
        for commit in self._ledger.load_commits(sorted(self._ledger.committed())):
            hashes = decode_hashes(commit.id_hashes)
            if np.isin(hashes, suspects).any():
                self._compare(commit, suspects, places)

    def _compare(self, commit: Commit, suspects: Hashes, places: dict[str, str]) -> None:
        part = read_part(self._ledger.folder, commit.data, commit.sha256)
        for position, row_id in enumerate(ids_in(part, self._ledger.output.format)):
            if hash_id(row_id) not in suspects:
                continue
            place = self._place(ShardKey.parse(commit.shard), position)
            if row_id in places:
                raise DuplicateIdError.of(
                    f"input.{self._id_field}",
                    row_id,
                    f"ids must be unique; {places[row_id]} and {place} have it",
                )
            places[row_id] = place

    def _place(self, key: ShardKey, position: int) -> str:
        uri = self._manifest.files[key.file].uri
        return f"{uri} (split {key.split}, shard {key.seq}, its row {position})"
