"""Waits for facts, not for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Calls `look` until it returns something true, and returns that. An `AssertionError` of it counts as "not yet"."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        over = time.monotonic() > deadline  # before the look: who stood still since the last one looks once more
        try:
            last = look()
            if last:
                return last
        except AssertionError as error:
            last = error
        if over:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen: {last}")
        time.sleep(0.05)


async def aeventually(look: Callable[[], Awaitable[T]], *, timeout_s: float = 180.0, what: str) -> T:
    """As `eventually`, of what must be awaited."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        over = time.monotonic() > deadline
        try:
            found = await look()
            if found:
                return found
            last = found
        except AssertionError as error:
            last = error
        if over:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen: {last}")
        await asyncio.sleep(0.05)


async def eventually_async(look: Callable[[], T], *, timeout_s: float = 180.0, what: str) -> T:
    """As `eventually`, for what happens on the same event loop."""

    async def looked() -> T:
        return look()

    return await aeventually(looked, timeout_s=timeout_s, what=what)
