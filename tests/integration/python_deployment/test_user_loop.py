"""The loop on which users' code runs, alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from serving.errors import Cancelled
from serving.python_deployment import batch
from serving.python_deployment.user_loop import UserLoop


@pytest.fixture
def loop() -> Iterator[UserLoop]:
    made = UserLoop(threads=2)
    made.start()
    yield made
    made.stop()
    made.join(30)
    assert not made.alive


async def test_work_that_is_cancelled_before_its_first_step_has_ended(loop: UserLoop) -> None:
    gate, blocked = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        gate.wait(60)

    blocking = loop.run(block)
    await asyncio.to_thread(blocked.wait, 30)
    never = loop.run(asyncio.Event().wait)
    never.cancel()  # both wait in the queue of the blocked loop
    gate.set()
    with pytest.raises(Cancelled):
        await asyncio.wait_for(asyncio.shield(never.here()), 30)
    await blocking.result()


class Exits:
    @batch(max_size=1)
    async def in_a_batch(self, items: list[int]) -> list[int]:
        raise SystemExit(items[0])

    @batch(max_size=1)
    def on_a_thread(self, items: list[int]) -> list[int]:
        raise SystemExit(items[0])

    async def in_a_task(self, code: int) -> None:
        async def exit_with(code: int) -> None:
            raise SystemExit(code)

        await asyncio.create_task(exit_with(code))

    async def after_the_loop(self, code: int) -> None:
        asyncio.get_running_loop().stop()
        raise SystemExit(code)


@pytest.mark.parametrize("how", ["in_a_batch", "on_a_thread", "in_a_task", "after_the_loop"])
async def test_what_wants_to_end_the_process_fails_alone(loop: UserLoop, how: str) -> None:
    exits = Exits()
    beside = loop.run(lambda: asyncio.sleep(0.2, "beside"))
    failing = loop.run(lambda: getattr(exits, how)(3))
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        await asyncio.wait_for(failing.result(), 30)
    assert await asyncio.wait_for(beside.result(), 30) == "beside"
    assert await asyncio.wait_for(loop.run(lambda: asyncio.sleep(0, "after")).result(), 30) == "after"
    assert loop.alive


def test_it_ends_twice(loop: UserLoop) -> None:
    loop.stop()
    loop.join(30)
    loop.stop()
