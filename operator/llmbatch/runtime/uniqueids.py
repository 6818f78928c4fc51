"""Refusing a job whose input repeats an id, as soon as both rows are committed."""

from __future__ import annotations

from llmbatch.errors import DuplicateIdError
from llmbatch.runtime.idindex import IdIndex, Suspect, decode_hashes, hash_id
from llmbatch.runtime.ledger import Commit, Ledger, Manifest
from llmbatch.runtime.outputs import read_ids
from llmbatch.runtime.shards import ShardKey


class UniqueIds:
    """Checks each commit against all before it. Needs 12 bytes of memory a row; see `IdIndex`."""

    def __init__(self, ledger: Ledger, manifest: Manifest) -> None:
        self._ledger = ledger
        self._manifest = manifest
        self._index = IdIndex()

    def add(self, commit: Commit) -> None:
        """Take a commit in; one that was taken in already is left out.

        Raises:
            DuplicateIdError: one of its ids was committed before; the message names the id and both places.
        """
        if not commit.id_hashes:
            return
        for suspect in self._index.add(commit.shard, decode_hashes(commit.id_hashes)):
            self._confirm(suspect)

    def _confirm(self, suspect: Suspect) -> None:
        places: dict[str, str] = {}
        for shard in dict.fromkeys((suspect.earlier, suspect.later)):
            for position, row_id in self._rows_with(suspect.hash, shard):
                place = self._place(ShardKey.parse(shard), position)
                if row_id in places:
                    raise DuplicateIdError.of(
                        f"input.{self._id_field()}",
                        row_id,
                        f"ids must be unique; {places[row_id]} and {place} have it",
                    )
                places[row_id] = place

    def _rows_with(self, hashed: int, shard: str) -> list[tuple[int, str]]:
        [commit] = self._ledger.load_commits([ShardKey.parse(shard)])
        return [
            (position, row_id)
            for position, row_id in enumerate(read_ids(self._ledger, commit))
            if hash_id(row_id) == hashed
        ]

    def _id_field(self) -> str:
        return "custom_id" if self._ledger.output.format == "openai" else "idField"

    def _place(self, key: ShardKey, position: int) -> str:
        uri = self._manifest.files[key.file].uri
        return f"{uri} (split {key.split}, shard {key.seq}, its row {position})"
