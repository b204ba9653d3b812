"""Servers of one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serving.broker.pulls import Pulls
from serving.control.clock import ManualClock
from tests.support.handed import Handed
from tests.support.redis_server import LoneRedis
from tests.support.shards import HeldShard


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LoneRedis]:
    """A server that the test may ruin."""
    with LoneRedis(tmp_path / "redis") as made:
        yield made


@pytest.fixture
async def handed(tmp_path: Path) -> AsyncIterator[Handed]:
    held = await HeldShard(tmp_path / "j1.sqlite", ManualClock()).open()
    pulls = Pulls({"j1": held.shard})
    held.shard.listener = pulls
    yield Handed(held, pulls)
    await held.close()
