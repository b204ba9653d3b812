"""What is looked for after work was ended: nothing of what lasts, all of what was left."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import moments
from tests.support.moments import Moment, Remains


async def _reads() -> None:
    await asyncio.Event().wait()


async def _replaces_its_task(replaced: asyncio.Event, absent_turns: int) -> None:
    """As a watch does that is told something: its task that reads has ended, the next begins turns later."""
    for _ in range(absent_turns):
        await asyncio.sleep(0)
    reading = asyncio.create_task(_reads())
    replaced.set()
    try:
        await reading
    finally:
        reading.cancel()


async def test_what_was_between_two_of_its_tasks_is_not_taken_for_left() -> None:
    replaced = asyncio.Event()
    lasting = asyncio.create_task(_replaces_its_task(replaced, absent_turns=5))
    before = await Remains.lasting()
    await replaced.wait()

    await before.nothing_more(Moment())

    lasting.cancel()


async def test_what_a_scenario_leaves_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_GONE_WITHIN_S", 0.05)
    before = await Remains.lasting()
    left = asyncio.create_task(_reads())

    with pytest.raises(AssertionError, match="left behind: _reads"):
        await before.nothing_more(Moment())

    left.cancel()
