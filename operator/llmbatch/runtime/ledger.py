"""The ledger: which shards count, kept in the output store itself. See docs/storage.md for the layout.

A worker writes a shard's rows under a name of its own (an attempt), then creates `commits/<shard key>` with
one atomic put-if-absent. The first creator wins and the object never changes again, so the output is a
function shard -> attempt: any number of drivers, workers and zombies may run at once, without lock, leader or
fencing. The driver keeps nothing durable; what is left to do is the manifest minus a LIST of the commits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Self, TypeVar

import orjson
import pyarrow.parquet as pq
from pydantic import ValidationError

from llmbatch.api.base import Document
from llmbatch.api.job import Output
from llmbatch.errors import InternalError, OutputConflictError, OutputError
from llmbatch.runtime.records import Commit, Final, Manifest, SpecMark, Winner
from llmbatch.runtime.shards import ShardKey
from llmbatch.runtime.storage import Folder

SPEC_KEY = "_SPEC"
FINAL_KEY = "_FINAL"
READERS = 64
"""Commits read at a time: 3,000 a second at 20 ms a read. Two cores decode about 10,000 a second."""
READ_CHUNK = 64
"""Commits one thread reads in a row: handing them over singly would cost as much as reading them."""
READ_AHEAD = 8192
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger of one output folder. Pickles as its address."""

    folder: Folder
    """The output folder."""
    output: Output
    """The job's output section."""
    mark: SpecMark
    """Whose folder it is."""

    @classmethod
    def open(
        cls,
        output: Output,
        spec_hash: str,
        job: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        folder: Folder | None = None,
    ) -> Self:
        """Claim the output folder for a spec, or join the attempts that did.

        Args:
            output: The job's output section.
            spec_hash: Hash of the job's spec.
            job: `namespace/name` of the job.
            now: The clock, for the time the output was first opened.
            folder: The folder at `output.uri`, where the caller has one.

        Raises:
            OutputConflictError: the folder belongs to another spec.
            OutputError: the folder cannot be written, or its store does not refuse a second create.
            StorageBusyError: the store does not answer.
        """
        folder = folder or Folder(output.uri, output.storage)
        mine = SpecMark(spec_hash=spec_hash, job=job, started_at=now())
        stored = folder.create_or_read(SPEC_KEY, to_json(mine))
        if stored == to_json(mine):
            folder.check_create_is_atomic(SPEC_KEY, stored)
        mark = _parse_mark(stored, output.uri)
        if mark.spec_hash != spec_hash:
            raise OutputConflictError.of(
                "output.uri",
                output.uri,
                f"it holds the output of job {mark.job} with spec {mark.spec_hash}, and this job's spec is "
                f"{spec_hash}: choose another output.uri, or restore that spec",
            )
        return cls(folder, output, mark)

    @classmethod
    def find(cls, output: Output) -> Self | None:
        """Return the ledger that is at `output.uri`, None when there is none. Writes nothing."""
        folder = Folder(output.uri, output.storage, create=False)
        stored = folder.read(SPEC_KEY)
        return None if stored is None else cls(folder, output, _parse_mark(stored, output.uri))

    @property
    def spec_hash(self) -> str:
        """Hash of the spec this output is a function of."""
        return self.mark.spec_hash

    @property
    def data_prefix(self) -> str:
        """Where the part files are."""
        return f"data/{self.spec_hash}/"

    @property
    def errors_prefix(self) -> str:
        """Where the error rows' own files are."""
        return f"errors/{self.spec_hash}/"

    @property
    def commits_prefix(self) -> str:
        """Where the commits are."""
        return f"{self.ledger_prefix}commits/"

    @property
    def ledger_prefix(self) -> str:
        """Where manifest, commits and winners are."""
        return f"_ledger/{self.spec_hash}/"

    @property
    def manifest_key(self) -> str:
        """Where the manifest is."""
        return f"{self.ledger_prefix}manifest.json"

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, None before the first attempt wrote it."""
        stored = self.folder.read(self.manifest_key)
        return None if stored is None else Manifest.parse(stored)

    def create_manifest(self, manifest: Manifest) -> Manifest:
        """Write the manifest unless there is one, and return the one that counts."""
        return Manifest.parse(self.folder.create_or_read(self.manifest_key, manifest.to_bytes()))

    def committed(self) -> Iterator[ShardKey]:
        """List the committed shards: one LIST request for 1000, no reads."""
        prefix = self.commits_prefix
        for entry in self.folder.entries(prefix):
            yield ShardKey.parse(entry.key.removeprefix(prefix))

    def settle(self, record: Commit) -> Commit:
        """Commit a shard unless another attempt did, and return the record that counts.

        Raises:
            OutputError, StorageBusyError: it is unknown who won. Running the shard again is safe.
        """
        stored = self.folder.create_or_read(self.commits_prefix + record.shard, to_json(record))
        return _parse_commit(stored, record.shard)

    def commit(self, record: Commit) -> bool:
        """Commit a shard unless another attempt did; tell whether this attempt is the one that counts."""
        return self.settle(record).attempt == record.attempt

    def load_commits(self, keys: Iterable[ShardKey]) -> Iterator[Commit]:
        """Read the commits of `keys`, in that order: `READERS` at a time, at most `READ_AHEAD` in memory."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="load-commits") as pool:
            for chunk in batches(keys, READ_AHEAD):
                for commits in pool.map(self._load_chunk, batches(chunk, READ_CHUNK)):
                    yield from commits

    def _load_chunk(self, keys: Sequence[ShardKey]) -> list[Commit]:
        return [self._load_commit(key) for key in keys]

    def _load_commit(self, key: ShardKey) -> Commit:
        stored = self.folder.read(f"{self.commits_prefix}{key}")
        if stored is None:
            raise InternalError(f"commit {self.commits_prefix}{key} was listed and is gone: who deleted it?")
        return _parse_commit(stored, str(key))

    def read_final(self) -> Final | None:
        """Return `_FINAL`, None while the job is not complete."""
        stored = self.folder.read(FINAL_KEY)
        return None if stored is None else Final.model_validate_json(stored)

    def winners(self) -> Iterator[Winner]:
        """Read the winning parts off `_FINAL`, in input order.

        Raises:
            OutputError: the job is not complete.
        """
        final = self.read_final()
        if final is None:
            raise OutputError.of("output.uri", self.output.uri, "the job is not complete: run it to its end")
        data = self.folder.read(final.winners.key)
        if data is None or hashlib.sha256(data).hexdigest() != final.winners.sha256:
            raise InternalError(f"{final.winners.key} is not what {FINAL_KEY} describes")
        columns = ["shard", "data", "errors", "size", "sha256", "rows"]
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield Winner(**{**row, "shard": ShardKey.parse(row["shard"])})


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Return the items, `size` at a time."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def to_json(document: Document) -> bytes:
    """Return a document as it is stored."""
    return orjson.dumps(document.to_wire())


def _parse_mark(data: bytes, uri: str) -> SpecMark:
    try:
        return SpecMark.model_validate_json(data)
    except ValidationError as error:
        raise OutputConflictError.of(
            "output.uri", uri, f"its {SPEC_KEY} was not written by llmbatch: choose another output.uri"
        ) from error


def _parse_commit(data: bytes, shard: str) -> Commit:
    try:
        return Commit.model_validate_json(data)
    except ValidationError as error:
        # A machine that lost power can leave a local file empty.
        raise InternalError(f"the commit of shard {shard} is damaged: delete it and run the job again") from error
