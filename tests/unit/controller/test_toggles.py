"""kopf's toggles as the operator uses them: the same answers, and no wake-up that changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from kopf._cogs.aiokits import aiotoggles

from llmbatch.controller.toggles import wake_on_change_only


def made(fn: Callable[[Iterable[bool]], bool]) -> aiotoggles.ToggleSet:
    assert wake_on_change_only(), "kopf changed: see controller/toggles.py"
    return aiotoggles.ToggleSet(fn)


def test_who_waits_for_all_is_woken_once_by_the_last():
    async def scenario() -> int:
        looks = 0

        def counting(states: Iterable[bool]) -> bool:
            nonlocal looks
            looks += 1
            return all(states)

        toggles = made(counting)
        made_toggles = [await toggles.make_toggle() for _ in range(100)]
        waiting = [asyncio.create_task(toggles.wait_for(True)) for _ in range(100)]
        await asyncio.sleep(0)
        for toggle in made_toggles[:-1]:
            await toggles.drop_toggle(toggle)
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await toggles.drop_toggle(made_toggles[-1])
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        return looks

    # Two for each change, one for each that begins to wait, one for each that is woken: not 100 for each change.
    assert asyncio.run(scenario()) <= 2 * 200 + 100 + 100


@pytest.mark.parametrize("fn", [all, any])
def test_turning_one_by_hand_wakes_as_before(fn: Callable[[Iterable[bool]], bool]):
    async def scenario() -> None:
        toggles = made(fn)
        toggle = await toggles.make_toggle(name="peer")
        assert toggles.is_off()
        waiting = asyncio.create_task(toggles.wait_for(True))
        await asyncio.sleep(0)
        await toggle.turn_to(True)
        await asyncio.wait_for(waiting, 5)
        again = asyncio.create_task(toggles.wait_for(False))
        await asyncio.sleep(0)
        await toggle.turn_to(False)
        await asyncio.wait_for(again, 5)
        await toggles.drop_toggles([toggle])
        assert len(toggles) == 0

    asyncio.run(scenario())


def test_a_toggle_that_comes_off_makes_a_set_that_was_on_wait():
    async def scenario() -> None:
        toggles = made(all)
        assert toggles.is_on()
        waiting = asyncio.create_task(toggles.wait_for(False))
        await asyncio.sleep(0)
        await toggles.make_toggle()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_it_is_replaced_once():
    assert wake_on_change_only()
    first = aiotoggles.ToggleSet
    assert wake_on_change_only()
    assert aiotoggles.ToggleSet is first
