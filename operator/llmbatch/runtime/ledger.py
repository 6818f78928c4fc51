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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Self, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from llmbatch.api.base import Document
from llmbatch.api.job import LLMBatchJobSpec, Output, OutputFormat
from llmbatch.errors import InputError, InternalError, OutputConflictError, OutputError
from llmbatch.runtime.shards import InputFile, ShardKey, plan_splits
from llmbatch.runtime.storage import Folder
from llmbatch.runtime.uniqueids import UniqueIds

SPEC_KEY = "_SPEC"
FINAL_KEY = "_FINAL"
READERS = 64
"""Commits read at a time: 3,000 a second at 20 ms a read. Two cores decode about 10,000 a second."""
READ_CHUNK = 64
"""Commits one thread reads in a row: handing them over singly would cost as much as reading them."""
READ_AHEAD = 8192
WINNER_BATCH = 50_000

WINNER_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("data", pa.string()),
        ("errors", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("rows", pa.int64()),
        ("failed", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)


class SpecMark(Document):
    """`_SPEC`: whose folder this is."""

    spec_hash: str
    """Hash of the spec that the output is a function of."""
    job: str
    """`namespace/name` of the job that came first."""
    started_at: datetime
    """When that was, in UTC."""


class Commit(Document):
    """One committed shard: the content of `commits/<shard key>`."""

    shard: str
    """The shard key."""
    attempt: str
    """Unique id of the attempt that wrote it; what tells two writers' records apart."""
    data: str
    """Key of the part file."""
    errors: str | None = None
    """Key of the file with the error rows; openai output with failed rows only."""
    size: Annotated[int, Field(ge=0)]
    """Bytes of the part file."""
    sha256: str
    """Of the part file, in hex."""
    rows: Annotated[int, Field(ge=0)]
    """Rows in the part file."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Rows with an error among them."""
    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens read, all stages and rows."""
    completion_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens generated, all stages and rows."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from the read of the shard to its commit, where known."""
    id_hashes: str = ""
    """Hashes of the ids in row order (see idindex.py); empty when ids are generated and so unique."""
    worker: str = ""
    """Who wrote it."""


class WinnersFile(Document):
    """Where the list of winning attempts is."""

    key: str
    """Key of a Parquet file with one row a shard, in input order."""
    sha256: str
    """Of that file, in hex."""
    size: int
    """Bytes of that file."""


class Final(Document):
    """`_FINAL`: the output is complete, and this is all of it."""

    version: int = 1
    """Of this document."""
    job: str
    """`namespace/name` of the job."""
    spec_hash: str
    """Hash of the spec that the output is a function of."""
    format: OutputFormat
    """Of the part files."""
    shards: int
    """Part files."""
    rows: int
    """Rows in them: as many as the input has."""
    failed: int
    """Rows with an error among them."""
    prompt_tokens: int
    """Tokens read."""
    completion_tokens: int
    """Tokens generated."""
    started_at: datetime
    """When the output was first opened, in UTC."""
    finished_at: datetime
    """When it became final, in UTC."""
    winners: WinnersFile
    """The part files that count. Any other file below data/ is an attempt that lost."""


@dataclass(frozen=True, slots=True)
class Winner:
    """One part file that counts."""

    shard: ShardKey
    """What it holds."""
    data: str
    """Its key."""
    errors: str | None
    """Key of its error rows' own file, if any."""
    size: int
    """Bytes."""
    sha256: str
    """In hex."""
    rows: int
    """Rows."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the input was when the job began. Every attempt cuts the same shards from it."""

    spec_hash: str
    """Hash of the job's spec."""
    shard_rows: int
    """Most rows of a shard."""
    split_bytes: int
    """Bytes of a split of plain text."""
    files: tuple[InputFile, ...]
    """The input files, in order; a shard key names one by its index."""

    def to_bytes(self) -> bytes:
        """Return the JSON form."""
        return orjson.dumps({**asdict(self), "files": [asdict(file) for file in self.files]})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Undo `to_bytes`."""
        fields: dict[str, Any] = orjson.loads(data)
        files = tuple(InputFile(**file) for file in fields.pop("files"))
        return cls(**fields, files=files)

    def check_inputs(self, files: Iterable[InputFile]) -> tuple[str, ...]:
        """Compare the input with what it was, and return the addresses of files that were not there then.

        Files that came later are not read: the job's input is what it was when it began.

        Raises:
            InputError: a file is gone or its content changed, so that rows would be lost or mixed.
        """
        now = {file.path: file for file in files}
        for then in self.files:
            _check_unchanged(then, now.pop(then.path, None))
        return tuple(sorted(file.uri for file in now.values()))


def _check_unchanged(then: InputFile, now: InputFile | None) -> None:
    if now is None:
        raise InputError.of("input.uri", then.uri, "the file is gone since the job began: put it back")
    if (now.etag, now.size) != (then.etag, then.size):
        raise InputError.of(
            "input.uri",
            then.uri,
            f"the file changed since the job began (then {then.size} bytes, etag {then.etag}; now {now.size} "
            f"bytes, etag {now.etag}): restore it, or run a new job into another output.uri",
        )


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
        stored = folder.create_or_read(SPEC_KEY, _json(mine))
        if stored == _json(mine):
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
        stored = self.folder.create_or_read(self.commits_prefix + record.shard, _json(record))
        return _parse_commit(stored, record.shard)

    def commit(self, record: Commit) -> bool:
        """Commit a shard unless another attempt did; tell whether this attempt is the one that counts."""
        return self.settle(record).attempt == record.attempt

    def load_commits(self, keys: Iterable[ShardKey]) -> Iterator[Commit]:
        """Read the commits of `keys`, in that order: `READERS` at a time, at most `READ_AHEAD` in memory."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="load-commits") as pool:
            for chunk in _batches(keys, READ_AHEAD):
                for commits in pool.map(self._load_chunk, _batches(chunk, READ_CHUNK)):
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

    def finalize(
        self,
        manifest: Manifest,
        spec: LLMBatchJobSpec,
        finished_at: datetime,
        unique_ids: UniqueIds | None = None,
    ) -> Final:
        """Audit the output and declare it complete. Repeatable: the first `_FINAL` counts.

        The audit: every split of the manifest is committed to its end, its shards follow each other without
        gap or double, rows add up, and every winning part is in the store with the size its commit says.

        Args:
            manifest: The job's manifest.
            spec: The job's spec.
            finished_at: The time now, in UTC.
            unique_ids: What the caller has checked already. Commits it did not see, such as those of another
                driver, are checked here.

        Raises:
            DuplicateIdError: two rows have the same id, and the job says to check.
            InternalError: the audit failed. In either case there is no `_FINAL`.
        """
        existing = self.read_final()
        if existing is not None:
            return existing
        keys = sorted(self.committed())
        check_complete(manifest, spec, keys)
        checks_ids = spec.input.unique_ids == "check"
        unique_ids = unique_ids or UniqueIds(self, manifest)
        totals = _Totals()
        table = io.BytesIO()
        with pq.ParquetWriter(table, WINNER_SCHEMA, compression="zstd") as writer:
            for batch in _batches(self.load_commits(keys), WINNER_BATCH):
                for commit in batch:
                    totals.add(commit)
                    if checks_ids:
                        unique_ids.add(commit)
                writer.write_table(_winner_table(batch))
        unique_ids.finish()
        self._check_parts(totals.parts)
        if totals.rows != (cut := sum(key.rows for key in keys)):
            raise InternalError(f"the commits hold {totals.rows} rows, the shards cut from the input {cut}")
        final = Final(
            job=self.mark.job,
            spec_hash=self.spec_hash,
            format=self.output.format,
            shards=len(keys),
            rows=totals.rows,
            failed=totals.failed,
            prompt_tokens=totals.prompt_tokens,
            completion_tokens=totals.completion_tokens,
            started_at=self.mark.started_at,
            finished_at=finished_at,
            winners=self._write_winners(table.getvalue()),
        )
        return Final.model_validate_json(self.folder.create_or_read(FINAL_KEY, _json(final)))

    def _write_winners(self, data: bytes) -> WinnersFile:
        # Named by content: drivers that finalize at once write the same bytes under the same name.
        digest = hashlib.sha256(data).hexdigest()
        key = f"{self.ledger_prefix}winners-{digest[:16]}.parquet"
        self.folder.put(key, data)
        return WinnersFile(key=key, sha256=digest, size=len(data))

    def _check_parts(self, expected: dict[str, int]) -> None:
        missing = dict(expected)
        for prefix in (self.data_prefix, self.errors_prefix):
            for entry in self.folder.entries(prefix):
                size = missing.get(entry.key)
                if size in (entry.size, _ANY_SIZE):
                    del missing[entry.key]
        if missing:
            key = min(missing)
            raise InternalError(
                f"{len(missing)} committed files are missing or have another size, such as {key}: delete "
                f"their commits below {self.commits_prefix} and run the job again"
            )

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


def check_complete(manifest: Manifest, spec: LLMBatchJobSpec, keys: Sequence[ShardKey]) -> None:
    """Check that `keys`, sorted, cover the manifest's input once.

    Raises:
        InternalError: a split is not committed to its end, or two shards cover the same rows.
    """
    todo = plan_splits(manifest.files, spec.input, keys, manifest.split_bytes)
    if todo:
        raise InternalError(f"{todo[0]} is not committed to its end: the job is not complete")
    before: ShardKey | None = None
    for key in keys:
        if key.file >= len(manifest.files):
            raise InternalError(f"shard {key} is of no file in the manifest: rows would be lost or doubled")
        if not _follows(before, key):
            raise InternalError(f"shard {key} does not follow {before}: rows would be lost or doubled")
        before = key


def _follows(before: ShardKey | None, key: ShardKey) -> bool:
    if before is not None and (before.file, before.split) == (key.file, key.split):
        return key.seq == before.seq + 1 and key.end >= before.end and not before.last
    return key.seq == 0 and (before is None or before.last)


_ANY_SIZE = -1
_Item = TypeVar("_Item")


class _Totals:
    def __init__(self) -> None:
        self.rows = self.failed = self.prompt_tokens = self.completion_tokens = 0
        self.parts: dict[str, int] = {}

    def add(self, commit: Commit) -> None:
        self.rows += commit.rows
        self.failed += commit.failed
        self.prompt_tokens += commit.prompt_tokens
        self.completion_tokens += commit.completion_tokens
        self.parts[commit.data] = commit.size
        if commit.errors is not None:
            self.parts[commit.errors] = _ANY_SIZE


def _winner_table(commits: Sequence[Commit]) -> pa.Table:
    columns = [
        pa.array([getattr(commit, field.name) for commit in commits], type=field.type) for field in WINNER_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=WINNER_SCHEMA)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _json(document: Document) -> bytes:
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
