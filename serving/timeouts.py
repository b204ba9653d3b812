"""Waiting for at most so long, without losing the cancellation of the one who waits."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import TypeVar

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

T = TypeVar("T")


async def wait_for(awaitable: Awaitable[T], timeout_s: float | None) -> T:
    """What the awaitable gives. Raises `asyncio.TimeoutError` after `timeout_s` seconds; None waits without an end.

    `asyncio.wait_for` before Python 3.12 forgets that its caller was cancelled when the awaitable has just finished
    (python/cpython#86296): a loop around it then goes on for ever, and whoever waits for it to stop, with it. Here the
    awaitable runs in the caller's own task, and a cancellation that comes with the result arrives. (On Python 3.10 one
    that comes in the very turn of the loop in which the limit passes still reads as the limit.)
    """
    async with timeout(timeout_s):
        return await awaitable
