"""A shard over a journal in Redis, on a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from serving.broker import journal_schema as schema
from serving.broker.redis_log import rows
from serving.broker.redis_log.log import RedisLog
from serving.broker.redis_log.scripts import Keys
from serving.broker.redis_log.shelf import RedisShelf
from serving.broker.shelf import Shelf
from serving.control.clock import ManualClock
from tests.support.redis_server import shared_redis
from tests.support.shards import HeldShard, Taken

_TRIES = 20


class RedisShard(HeldShard):
    """Its journal is named as `path` says, and is of a scope of its own where `redis` is not given."""

    def __init__(self, path: Path, clock: ManualClock, **changes: Any) -> None:
        changes.setdefault("redis", shared_redis().settings())
        super().__init__(path, clock, **changes)

    @property
    def keys(self) -> Keys:
        assert self.settings.redis is not None
        return Keys(self.settings.redis.scope, self.path.stem)

    @property
    def log(self) -> RedisLog:
        found = self.shard.journal._log
        assert isinstance(found, RedisLog)
        return found

    def _shelf(self) -> Shelf:
        assert self.settings.redis is not None
        return RedisShelf(self.settings.redis, self.settings.folder, self.settings.name, self.settings.sync)

    async def reborn(self, path: Path) -> HeldShard:
        """On another node, where nothing is known; this one lives on and has not renewed."""
        made = type(self)(path.parent / path.stem / self.path.name, self.clock, **self.changes)
        for _ in range(_TRIES):
            await asyncio.to_thread(shared_redis().client.delete, self.keys.owner)
            with contextlib.suppress(Taken):  # it was renewed between the two
                return await made.open()
        raise Taken(f"{self.path} is renewed again and again")

    def lose_request(self, number: int) -> None:
        shared_redis().client.hdel(self.keys.requests, str(number))

    def kept_states(self, number: int) -> tuple[int, int | None]:
        client: Any = shared_redis().client
        head = client.hget(self.keys.heads, number)
        ((_, fields),) = client.xrange(self.keys.items, min=head, max=head)
        ((row, callback),) = rows.parsed([fields[b"i"]])
        state = None if callback is None else callback[1 + rows.CALLBACK_FIELDS.index("state")]
        return row[schema.COLUMNS.index("state")], state
