"""A start in time that grows with the objects, not with their square.

kopf lets no handler run before everything that it indexes was listed once. Each object that was indexed drops a toggle,
and with it kopf 1.45 wakes every task that waits for the last one: 3 000 objects are nine million wake-ups, and most of
a restart. Here the waiting are woken when the set as a whole turns on or off, which is all they wait for. This and
`relist` are the two places that touch private names of kopf; without them kopf's own way stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger(__name__)


def wake_on_change_only() -> bool:
    """Replace kopf's sets of toggles, and tell whether that could be done."""
    try:
        from kopf._cogs.aiokits import aiotoggles
    except ImportError:
        logger.warning("kopf's toggles are not where kopf 1.45 has them: starts with many pods are slow")
        return False
    if not issubclass(aiotoggles.ToggleSet, _Quiet):
        aiotoggles.ToggleSet = _quiet(aiotoggles.ToggleSet, aiotoggles.Toggle)
    return True


class _Quiet:
    """Marks the sets made here."""


def _quiet(plain: Any, toggle_type: Any) -> Any:
    class QuietToggleSet(_Quiet, plain):  # type: ignore[misc]
        """A set of toggles that wakes who waits for it when it turns on or off, and not at each toggle."""

        async def make_toggle(self, val: bool = False, /, *, name: str | None = None) -> Any:
            toggle = toggle_type(val, name=name, condition=self._condition)
            await self._change(lambda: self._toggles.add(toggle))
            return toggle

        async def drop_toggle(self, toggle: Any) -> None:
            await self._change(lambda: self._toggles.discard(toggle))

        async def drop_toggles(self, toggles: Iterable[Any]) -> None:
            await self._change(lambda: self._toggles.difference_update(toggles))

        async def _change(self, change: Any) -> None:
            async with self._condition:
                before = self.is_on()
                change()
                if self.is_on() != before:
                    self._condition.notify_all()

    return QuietToggleSet
