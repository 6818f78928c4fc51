"""Deletions that a watch has missed.

A watch that fell too far behind (410 Gone) begins again with a list. kopf 1.45 takes from that what there is and does
not look for what is not there any more: a pod that was deleted meanwhile stays in the indices, and a job in its loop,
until the operator starts anew. Here each watch keeps account of what it has shown, and an object that a whole list
leaves out is told as deleted. As in `toggles`, without kopf's private names its own way stays.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from llmbatch.core.job.children.names import JOB_LABEL

logger = logging.getLogger(__name__)


def tell_missed_deletions() -> bool:
    """Replace kopf's watch, and tell whether that could be done."""
    try:
        from kopf._cogs.clients import watching

        watch, listed = watching.infinite_watch, watching.Bookmark.LISTED
    except (ImportError, AttributeError):
        return _missing()
    if not isinstance(watch, _CompleteWatch):
        if "_iterations" not in inspect.signature(watch).parameters:
            return _missing()
        watching.infinite_watch = _CompleteWatch(watch, listed)
    return True


def _missing() -> bool:
    logger.warning("kopf's watches are not what they are in kopf 1.45: a deletion that a watch misses stays unnoticed")
    return False


class _Shown(NamedTuple):
    """What kopf and the handlers read of an object that is deleted. It is kept of each pod, so it is little."""

    namespace: str | None
    name: str
    job: str | None

    @classmethod
    def of(cls, body: Any) -> _Shown:
        metadata = body["metadata"]
        return cls(metadata.get("namespace"), metadata["name"], (metadata.get("labels") or {}).get(JOB_LABEL))

    def deleted(self, uid: str) -> dict[str, Any]:
        labels = {} if self.job is None else {JOB_LABEL: self.job}
        metadata = {"namespace": self.namespace, "name": self.name, "uid": uid, "labels": labels}
        return {"type": "DELETED", "object": {"metadata": metadata}}


class _CompleteWatch:
    """kopf's endless watch of one resource, to which the deletions are added that a list shows."""

    def __init__(self, plain: Any, listed: Any) -> None:
        self._plain, self._listed = plain, listed

    def __call__(self, *, operator_paused: Any = None, **asked: Any) -> AsyncIterator[Any]:
        if operator_paused is None:
            # A watch by which kopf itself looks for resources and namespaces; it reads more of what is deleted.
            watch: AsyncIterator[Any] = self._plain(operator_paused=None, **asked)
            return watch
        return self._complete(operator_paused=operator_paused, **asked)

    async def _complete(self, **asked: Any) -> AsyncIterator[Any]:
        shown: dict[str, _Shown] = {}
        while True:
            # One iteration is one list, and the watch from there until it is too far behind. A list that fails half-way
            # ends it as well, without the mark that it is whole.
            there: set[str] = set()
            async for event in self._plain(_iterations=1, **asked):
                if event is self._listed:
                    gone = [uid for uid in shown if uid not in there]
                    there.clear()
                    if gone:
                        logger.info("%s: %d were deleted while their watch was behind", asked["resource"], len(gone))
                    for uid in gone:
                        yield shown.pop(uid).deleted(uid)
                elif event["type"] != "BOOKMARK":
                    _note(event, shown, there)
                yield event


def _note(event: Any, shown: dict[str, _Shown], there: set[str]) -> None:
    uid, seen = event["object"]["metadata"]["uid"], _Shown.of(event["object"])
    if event["type"] == "DELETED":
        shown.pop(uid, None)
    elif shown.get(uid) != seen:
        shown[uid] = seen
    if event["type"] is None:
        there.add(uid)
