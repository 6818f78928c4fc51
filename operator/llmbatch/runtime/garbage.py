"""What a complete job no longer needs: part files of attempts that lost, and writes that a kill cut short.

No run holds the ledger while this works, because nothing goes before `_FINAL` is there: until then any attempt can
still win. A `_FINAL` names every part file that will ever count by it, so a run that wakes later can only add files.
What one from before a retry names stays as well: somebody may be reading it. A file goes when it and the last `_FINAL`
are both older than a grace period, so that a worker that still writes meets its own file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from llmbatch.runtime.ledger import Ledger
from llmbatch.runtime.records import Final
from llmbatch.runtime.storage import Entry

DELETE_BATCH = 1000
"""Keys of one request: S3's DeleteObjects takes as many."""


@dataclass(frozen=True, slots=True)
class Collected:
    """How much was found, or deleted."""

    files: int = 0
    """Files."""
    size: int = 0
    """Their bytes."""

    def plus(self, entries: list[Entry]) -> Collected:
        """Return the sum with `entries`."""
        return Collected(self.files + len(entries), self.size + sum(entry.size for entry in entries))


def find_garbage(ledger: Ledger, final: Final, now: datetime, grace_seconds: float) -> Iterator[Entry]:
    """List what may be deleted at `now`; nothing before `_FINAL` is `grace_seconds` old.

    Raises:
        InternalError: the list of winners is not the one that `_FINAL` describes.
    """
    youngest = now - timedelta(seconds=grace_seconds)
    if final.finished_at > youngest:
        return
    kept: set[str | None] = set()
    for complete in ledger.finals():
        for winner in ledger.winners(complete):
            kept |= {winner.data, winner.errors}
    for prefix in (ledger.data_prefix, ledger.errors_prefix):
        for entry in ledger.folder.entries(prefix):
            if entry.key not in kept and entry.modified <= youngest:
                yield entry
    for prefix in (ledger.data_prefix, ledger.errors_prefix, ledger.ledger_prefix):
        for entry in ledger.folder.cut_short(prefix):
            if entry.modified <= youngest:
                yield entry


def delete_garbage(ledger: Ledger, garbage: Iterator[Entry]) -> Collected:
    """Delete what `find_garbage` lists. Repeatable: a file that is gone already is no error.

    Raises:
        OutputError: the store does not let this user delete.
        StorageBusyError: the store does not answer.
    """
    deleted = Collected()
    while batch := list(islice(garbage, DELETE_BATCH)):
        ledger.folder.delete([entry.key for entry in batch])
        deleted = deleted.plus(batch)
    return deleted
