"""What a keeper does when one of its own parts fails: it ends, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import pytest

import keeper.__main__ as command
from keeper.config import KeeperConfig
from keeper.process import Keeper
from serving.config import EtcdConfig
from serving.errors import Internal
from serving.store import Compare, Leadership

CONFIG = KeeperConfig(EtcdConfig(endpoints=("127.0.0.1:1",)), listen="127.0.0.1:0", stop_grace_s=0.05)


async def fails(_leadership: Leadership) -> None:
    raise RuntimeError("a fault of ours")


async def lasts(_leadership: Leadership) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("first", "second"), [(fails, lasts), (lasts, fails)])
async def test_a_fault_in_either_loop_of_the_leader_is_raised(
    first: Callable[[Leadership], Awaitable[None]], second: Callable[[Leadership], Awaitable[None]]
) -> None:
    keeper = Keeper(CONFIG)
    await keeper.start()
    leadership = Leadership("key", 1, asyncio.Event(), Compare.exists("key"), lambda: True)
    try:
        with (
            patch.object(keeper._reconciler, "lead", first),
            patch.object(keeper._own, "lead", second),
            pytest.raises(RuntimeError, match="a fault of ours"),
        ):
            await keeper._lead(leadership)
    finally:
        await keeper.stop()


async def test_a_keeper_that_ends_unasked_is_no_success() -> None:
    async def cancelled(_keeper: Keeper) -> None:
        raise asyncio.CancelledError

    with patch.object(Keeper, "run", cancelled), pytest.raises(Internal, match="nobody asked it to"):
        await command._run(CONFIG)
