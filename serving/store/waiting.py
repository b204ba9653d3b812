"""Waiting for the first of several things, without leaving a task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from serving.timeouts import cancel_and_wait


async def wait_first(*things: Awaitable[Any]) -> int:
    """Returns the position of the first one that ends (of several, the first in order) and cancels the others.

    Raises what that one raised. Returns or raises only when all of them have ended.
    """
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(position for position, task in enumerate(tasks) if task.done())
    finally:
        await cancel_and_wait(*tasks)
    tasks[first].result()
    return first
