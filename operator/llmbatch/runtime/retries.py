"""Running failed rows again, without a second output and without a gap in the first one.

A retry is a numbered layer of the ledger. Its plan names the shards that had failed rows; it is written once, so every
driver and every attempt of the retry agree. A planned shard is read again, its well rows are marked and pass the stages
untouched, and what is committed is the earlier part with the failed rows replaced. The commit is a put-if-absent of the
layer, as any other. Of a shard the latest layer's commit counts, and each is made of a whole one: so each row is in the
output once before, during and after a retry, whoever crashes or wakes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa

from llmbatch.errors import InternalError
from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.parts import failed_in, read_part
from llmbatch.runtime.records import Commit, RetryPlan
from llmbatch.runtime.rows import RowError, dumps
from llmbatch.runtime.shards import ShardKey

KEPT = "Kept"
"""Code of the mark on a row that is well in an earlier commit. No stage runs a row with an error."""


def begin_retry(ledger: Ledger, request: str, now: datetime) -> Ledger:
    """Return the ledger in the retry that `request` asks for; as it is when no committed row failed.

    A retry that is under way is joined, whoever asked for it.

    Args:
        ledger: The ledger, as of its latest retry.
        request: Who asks. Asking again later, after a crash, begins no other retry.
        now: The time, in UTC.
    """
    plan = ledger.retry_plan(ledger.retry) if ledger.retry else None
    done = set(ledger.committed())
    if plan is not None and (plan.request == request or not done.issuperset(map(ShardKey.parse, plan.shards))):
        return ledger
    failed = [commit.shard for commit in ledger.load_commits(sorted(done)) if commit.failed]
    if not failed:
        return ledger
    number = ledger.retry + 1
    ledger.create_retry_plan(number, RetryPlan(request=request, started_at=now, shards=tuple(failed)))
    return replace(ledger, retry=number)


def mark_kept(ledger: Ledger, shard: ShardKey, table: pa.Table) -> pa.Table:
    """Return a shard as it was read, with a mark on each row that an earlier commit has without an error.

    Args:
        ledger: The ledger of a retry.
        shard: Which shard.
        table: All its rows, a table of `rows.SCHEMA`.
    """
    found = earlier_commit(ledger, shard)
    if found is None:
        return table
    retry, commit = found
    failed = failed_in(read_part(ledger.folder, commit.data, commit.sha256), ledger.output.format)
    mark = dumps(RowError("", KEPT, str(retry)))
    read = table.column("error").to_pylist()
    errors = pa.array([error if position in failed else mark for position, error in enumerate(read)], pa.string())
    return table.set_column(table.schema.get_field_index("error"), "error", errors)


def is_kept(error: RowError | None) -> bool:
    """Tell whether a row's error is the mark."""
    return error is not None and (error.stage, error.code) == ("", KEPT)


def replaced_commit(ledger: Ledger, shard: ShardKey, errors: Sequence[RowError | None]) -> Commit | None:
    """Return the commit whose failed rows are run again; None for a shard that was never committed.

    Args:
        ledger: The ledger of a retry.
        shard: Which shard.
        errors: The errors of all its rows, with the marks among them.

    Raises:
        InternalError: the commit that the marks speak of is gone.
    """
    marked = next((error.message for error in errors if error is not None and is_kept(error)), None)
    if marked is None:
        found = earlier_commit(ledger, shard)
        return None if found is None else found[1]
    commit = ledger.find_commit(shard, int(marked))
    if commit is None:
        raise InternalError(f"commit {ledger.commits_of(int(marked))}{shard} was read and is gone: who deleted it?")
    return commit


def earlier_commit(ledger: Ledger, shard: ShardKey) -> tuple[int, Commit] | None:
    """Return the commit that a shard had before this retry, and the retry that made it."""
    for retry in reversed(range(ledger.retry)):
        commit = ledger.find_commit(shard, retry)
        if commit is not None:
            return retry, commit
    return None
