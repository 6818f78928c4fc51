"""Declaring an output complete: the audit of all commits, and `_FINAL` with the list of winners."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.errors import InternalError
from llmbatch.runtime.ledger import Ledger, batches, final_key, to_json
from llmbatch.runtime.records import Commit, Final, Manifest, WinnersFile
from llmbatch.runtime.shards import ShardKey, plan_splits
from llmbatch.runtime.uniqueids import UniqueIds

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
_ANY_SIZE = -1


def finalize(
    ledger: Ledger,
    manifest: Manifest,
    spec: LLMBatchJobSpec,
    finished_at: datetime,
    unique_ids: UniqueIds | None = None,
) -> Final:
    """Audit the output and declare it complete. Repeatable: the first `_FINAL` of a retry counts.

    The audit: every split of the manifest is committed to its end, its shards follow each other without
    gap or double, rows add up, and every winning part is in the store with the size its commit says.

    Args:
        ledger: The ledger of the job's output.
        manifest: The job's manifest.
        spec: The job's spec.
        finished_at: The time now, in UTC.
        unique_ids: What the caller has checked already. Commits it did not see, such as those of another
            driver, are checked here.

    Raises:
        DuplicateIdError: two rows have the same id, and the job says to check.
        InternalError: the audit failed. In either case there is no `_FINAL`.
    """
    existing = ledger.read_final()
    if existing is not None and existing.retry >= ledger.retry:
        return existing
    keys = sorted(ledger.committed())
    check_complete(manifest, spec, keys)
    checks_ids = spec.input.unique_ids == "check"
    unique_ids = unique_ids or UniqueIds(ledger, manifest, spec.input)
    totals = _Totals()
    table = io.BytesIO()
    with pq.ParquetWriter(table, WINNER_SCHEMA, compression="zstd") as writer:
        for batch in batches(keys, WINNER_BATCH):
            winners = []
            for commit in ledger.load_commits(batch):
                totals.add(commit)
                if checks_ids:
                    unique_ids.add(commit)
                # Of a commit with the hashes of its ids only this much may stay in memory.
                winners.append([getattr(commit, name) for name in WINNER_SCHEMA.names])
            writer.write_table(_winner_table(winners))
    unique_ids.finish()
    _check_parts(ledger, totals.parts)
    if totals.rows != (cut := sum(key.rows for key in keys)):
        raise InternalError(f"the commits hold {totals.rows} rows, the shards cut from the input {cut}")
    final = Final(
        job=ledger.mark.job,
        spec_hash=ledger.spec_hash,
        format=ledger.output.format,
        shards=len(keys),
        rows=totals.rows,
        failed=totals.failed,
        prompt_tokens=totals.prompt_tokens,
        completion_tokens=totals.completion_tokens,
        retry=ledger.retry,
        started_at=ledger.mark.started_at,
        finished_at=finished_at,
        winners=_write_winners(ledger, table.getvalue()),
    )
    return _publish(ledger, final)


def _publish(ledger: Ledger, final: Final) -> Final:
    """Take the first free number, unless a final of this retry or a later one is met before."""
    for number in count():
        stored = Final.model_validate_json(ledger.folder.create_or_read(final_key(number), to_json(final)))
        if stored.retry >= final.retry:
            return stored
    raise AssertionError("the numbers do not end")


def _write_winners(ledger: Ledger, data: bytes) -> WinnersFile:
    # Named by content: drivers that finalize at once write the same bytes under the same name.
    digest = hashlib.sha256(data).hexdigest()
    key = f"{ledger.ledger_prefix}winners-{digest[:16]}.parquet"
    ledger.folder.put(key, data)
    return WinnersFile(key=key, sha256=digest, size=len(data))


def _check_parts(ledger: Ledger, expected: dict[str, int]) -> None:
    missing = dict(expected)
    for prefix in (ledger.data_prefix, ledger.errors_prefix):
        for entry in ledger.folder.entries(prefix):
            size = missing.get(entry.key)
            if size in (entry.size, _ANY_SIZE):
                del missing[entry.key]
    if missing:
        key = min(missing)
        raise InternalError(
            f"{len(missing)} committed files are missing or have another size, such as {key}: delete "
            f"their commits below {ledger.commits_prefix} and run the job again"
        )


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


def _winner_table(winners: Sequence[Sequence[Any]]) -> pa.Table:
    columns = [
        pa.array(values, type=kind.type) for values, kind in zip(zip(*winners, strict=True), WINNER_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=WINNER_SCHEMA)
