"""What the ledger stores: whose folder it is, the input as it was, a commit a shard, and the list of winners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Self

import orjson
from pydantic import Field

from llmbatch.api.base import Document
from llmbatch.api.job import OutputFormat
from llmbatch.errors import InputError
from llmbatch.runtime.shards import InputFile, ShardKey


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
    """Tokens read, all stages and rows; of a retried shard, those of the tries before as well."""
    completion_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens generated, all stages and rows; of a retried shard, those of the tries before as well."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Replica-seconds that its rows took in all stages, in this attempt."""
    id_hashes: str = ""
    """Hashes of the ids in row order (see idindex.py); empty when ids are generated and so unique."""
    worker: str = ""
    """Who wrote it."""


class RetryPlan(Document):
    """`retries/<number>/plan.json`: which shards a retry runs again. It is written once, before the first of them."""

    request: str
    """Who asked for it: the same one asks again after a crash, and gets this retry and no other."""
    started_at: datetime
    """When, in UTC."""
    shards: tuple[str, ...]
    """Keys of the shards that had failed rows, in input order."""


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
    retry: int = 0
    """Which retry of failed rows made it so; 0: none."""
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
