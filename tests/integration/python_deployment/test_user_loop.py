"""The loop on which users' code runs, alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from serving.errors import Cancelled
from serving.python_deployment.user_loop import UserLoop


@pytest.fixture
def loop() -> Iterator[UserLoop]:
    made = UserLoop(threads=2)
    made.start()
    yield made
    made.stop()
    made.join(5)
    assert not made.alive


async def test_work_that_is_cancelled_before_its_first_step_has_ended(loop: UserLoop) -> None:
    gate, blocked = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        gate.wait(10)

    blocking = loop.run(block)
    await asyncio.to_thread(blocked.wait, 10)
    never = loop.run(asyncio.Event().wait)
    never.cancel()  # both wait in the queue of the blocked loop
    gate.set()
    with pytest.raises(Cancelled):
        await asyncio.wait_for(asyncio.shield(never.here()), 5)
    await blocking.result()
