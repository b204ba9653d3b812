"""What surrounds the methods of a user's class."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from serving.errors import FailedPrecondition
from serving.python_deployment import Handle
from serving.python_deployment.composition import Composition
from serving.python_deployment.user_code import UserCode
from serving.python_deployment.user_loop import UserLoop


@pytest.fixture
def loop() -> Iterator[UserLoop]:
    made = UserLoop(threads=1)
    made.start()
    yield made
    made.stop()


class Watched:
    """`health` does what `answer` says."""

    def __init__(self) -> None:
        self.answer = "well"
        self.gate = threading.Event()

    def infer(self, request: object) -> object:
        return request

    def health(self) -> bool:
        if self.answer == "exit":
            raise SystemExit(3)
        if self.answer == "wait":
            self.gate.wait(10)
        return self.answer != "ill"


async def test_health_that_blocks_is_asked_beside_a_blocked_loop(loop: UserLoop) -> None:
    watched = Watched()
    user = UserCode(watched, loop, "it", None)
    gate = threading.Event()

    async def block() -> None:
        gate.wait(10)

    blocking = loop.run(block)
    await asyncio.wait_for(user.health(), 5)
    for answer, error in (("ill", FailedPrecondition), ("exit", RuntimeError), ("wait", asyncio.TimeoutError)):
        watched.answer = answer
        with pytest.raises(error):
            await asyncio.wait_for(user.health(), 0.5)
    assert not blocking.ended.done()
    watched.gate.set()
    gate.set()
    await blocking.result()


class MakesHandles:
    def infer(self, request: object) -> object:
        return request

    def reconfigure(self, _: dict[str, Any]) -> None:
        Handle("other")

    def health(self) -> None:
        Handle("other")


class MakesHandlesAsync(MakesHandles):
    async def reconfigure(self, _: dict[str, Any]) -> None:
        Handle("other")

    async def health(self) -> None:
        Handle("other")


@pytest.mark.parametrize("kind", [MakesHandles, MakesHandlesAsync])
async def test_handles_can_be_made_in_every_method(loop: UserLoop, kind: type) -> None:
    user = UserCode(kind(), loop, "it", cast(Composition, object()))
    await user.health()
    await loop.run(lambda: user.reconfigure({})).result()
