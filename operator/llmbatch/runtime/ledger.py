"""The ledger: which shards count, kept in the output store itself. See docs/storage.md for the layout.

A worker writes a shard's rows under a name of its own (an attempt), then creates `commits/<shard key>` with
one atomic put-if-absent. The first creator wins and the object never changes again, so the output is a
function shard -> attempt: any number of drivers, workers and zombies may run at once, without lock, leader or
fencing. The driver keeps nothing durable; what is left to do is the manifest minus a LIST of the commits.

A retry of failed rows (see retries.py) is a numbered layer of further commits: of a shard, the commit of the latest
retry counts. Nothing is changed or deleted for it, and each row stands once in the output at any time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count, islice
from typing import Self, TypeVar

import orjson
import pyarrow.parquet as pq
from pydantic import ValidationError

from llmbatch.api.base import Document
from llmbatch.api.job import Output
from llmbatch.errors import InternalError, OutputConflictError, OutputError
from llmbatch.runtime.records import Commit, Final, Manifest, RetryPlan, SpecMark, Winner
from llmbatch.runtime.shards import ShardKey
from llmbatch.runtime.storage import Folder

SPEC_KEY = "_SPEC"
FINAL_KEY = "_FINAL"
READERS = 64
"""Commits read at a time: 3,000 a second at 20 ms a read. Two cores decode about 10,000 a second."""
READ_CHUNK = 64
"""Commits one thread reads in a row, at most: handing them over singly would cost as much as reading them."""
READ_CHUNK_ROWS = 2**14
"""Rows of these commits: each row has its id's hash in them."""
READ_AHEAD = 128
"""Chunks that are read before they are wanted."""
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
    retry: int = 0
    """The retry of failed rows that commits belong to; 0 before the first."""

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
        return cls(folder, output, mark).latest()

    @classmethod
    def find(cls, output: Output) -> Self | None:
        """Return the ledger that is at `output.uri`, None when there is none. Writes nothing."""
        folder = Folder(output.uri, output.storage, create=False)
        stored = folder.read(SPEC_KEY)
        return None if stored is None else cls(folder, output, _parse_mark(stored, output.uri)).latest()

    def latest(self) -> Self:
        """Return the ledger as of its latest retry. They are numbered without gap: one read each, and one more."""
        numbers = count(self.retry + 1)
        return replace(self, retry=next(number for number in numbers if self.retry_plan(number) is None) - 1)

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
        """Where this ledger commits."""
        return self.commits_of(self.retry)

    def commits_of(self, retry: int) -> str:
        """Return where the commits of a retry are; 0: those before the first."""
        return f"{self.ledger_prefix}commits/" if retry == 0 else f"{self._retry_prefix(retry)}commits/"

    def _retry_prefix(self, retry: int) -> str:
        return f"{self.ledger_prefix}retries/{retry:04d}/"

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

    def retry_plan(self, retry: int) -> RetryPlan | None:
        """Return what a retry runs again, None before it begins."""
        stored = self.folder.read(f"{self._retry_prefix(retry)}plan.json")
        return None if stored is None else RetryPlan.model_validate_json(stored)

    def create_retry_plan(self, retry: int, plan: RetryPlan) -> RetryPlan:
        """Begin a retry unless it has begun, and return the plan that counts."""
        return RetryPlan.model_validate_json(
            self.folder.create_or_read(f"{self._retry_prefix(retry)}plan.json", to_json(plan))
        )

    def committed(self) -> Iterator[ShardKey]:
        """List the committed shards, less those that the retry has still to run: one LIST request for 1000."""
        retried = self._retried()
        pending = self._pending(retried)
        yield from (key for key in self._listed(0) if key not in retried and key not in pending)
        yield from (key for key in retried if key not in pending)

    def _listed(self, retry: int) -> Iterator[ShardKey]:
        prefix = self.commits_of(retry)
        for entry in self.folder.entries(prefix):
            yield ShardKey.parse(entry.key.removeprefix(prefix))

    def _retried(self) -> dict[ShardKey, int]:
        """Return the shards that retries committed, each with the latest one that did."""
        return {key: retry for retry in range(1, self.retry + 1) for key in self._listed(retry)}

    def _pending(self, retried: dict[ShardKey, int]) -> frozenset[ShardKey]:
        plan = self.retry_plan(self.retry) if self.retry else None
        planned = () if plan is None else map(ShardKey.parse, plan.shards)
        return frozenset(key for key in planned if retried.get(key) != self.retry)

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
        """Read the commits of `keys`, in that order: `READERS` at a time, at most `READ_AHEAD` chunks in memory."""
        load = partial(self._load_chunk, self._retried())
        with ThreadPoolExecutor(READERS, thread_name_prefix="load-commits") as pool:
            for chunks in batches(_chunks(keys), READ_AHEAD):
                for commits in pool.map(load, chunks):
                    yield from commits

    def _load_chunk(self, retried: Mapping[ShardKey, int], keys: Sequence[ShardKey]) -> list[Commit]:
        return [self._load_commit(key, retried.get(key, 0)) for key in keys]

    def _load_commit(self, key: ShardKey, retry: int) -> Commit:
        found = self.find_commit(key, retry)
        if found is None:
            raise InternalError(f"commit {self.commits_of(retry)}{key} was listed and is gone: who deleted it?")
        return found

    def find_commit(self, key: ShardKey, retry: int) -> Commit | None:
        """Return the commit that a retry made of a shard, None where it made none; 0: before the first."""
        stored = self.folder.read(f"{self.commits_of(retry)}{key}")
        return None if stored is None else _parse_commit(stored, str(key))

    def finals(self) -> Iterator[Final]:
        """Read `_FINAL`, `_FINAL.1` and so on: each is a complete output, of a later retry than the one before."""
        for number in range(self.retry + 1):
            stored = self.folder.read(final_key(number))
            if stored is None:
                return
            yield Final.model_validate_json(stored)

    def read_final(self) -> Final | None:
        """Return the last of `finals`, None while the job is not complete."""
        finals = list(self.finals())
        return finals[-1] if finals else None

    def winners(self, final: Final | None = None) -> Iterator[Winner]:
        """Read the winning parts off a final, the last one when left out, in input order.

        Raises:
            OutputError: the job is not complete.
        """
        final = final or self.read_final()
        if final is None:
            raise OutputError.of("output.uri", self.output.uri, "the job is not complete: run it to its end")
        data = self.folder.read(final.winners.key)
        if data is None or hashlib.sha256(data).hexdigest() != final.winners.sha256:
            raise InternalError(f"{final.winners.key} is not what {FINAL_KEY} describes")
        columns = ["shard", "data", "errors", "size", "sha256", "rows"]
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield Winner(**{**row, "shard": ShardKey.parse(row["shard"])})


def final_key(number: int) -> str:
    """Return the key of a final, from 0. They are taken in order, and retries grow with them."""
    return FINAL_KEY if number == 0 else f"{FINAL_KEY}.{number}"


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Return the items, `size` at a time."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _chunks(keys: Iterable[ShardKey]) -> Iterator[list[ShardKey]]:
    chunk: list[ShardKey] = []
    rows = 0
    for key in keys:
        chunk.append(key)
        rows += key.rows
        if len(chunk) == READ_CHUNK or rows >= READ_CHUNK_ROWS:
            yield chunk
            chunk, rows = [], 0
    if chunk:
        yield chunk


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
