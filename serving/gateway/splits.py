"""Which applications split their requests among deployments; asked for when they are first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from serving._proto import records_pb2 as pb
from serving.discovery.resolver import TRAFFIC_GRACE_S
from serving.discovery.view import newer_traffic
from serving.errors import DataLoss
from serving.store import keys
from serving.store.cache import PrefixCache
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode

_LOG: Final = logging.getLogger(__name__)
_FIRST_S: Final = 5.0


class Splits:
    """Follows the traffic records of applications that were asked for. Belongs to one event loop."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._caches: dict[AppKey, PrefixCache] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def of(self, app: AppKey) -> tuple[pb.TrafficSplit, ...]:
        """Raises `StoreUnavailable` when it was never read, and cannot be read now."""
        cache = self._caches.get(app)
        if cache is None:
            cache = self._caches[app] = PrefixCache(
                self._client, keys.traffic(app), grace_s=TRAFFIC_GRACE_S, prefer=newer_traffic
            )
            await cache.start()
        if not cache.synced:
            await cache.wait_synced(_FIRST_S)
        found = cache.get(keys.traffic(app))
        if found is None:
            return ()
        try:
            return tuple(decode(pb.TrafficRecord, found.value).splits)
        except DataLoss as error:
            _LOG.error("traffic record cannot be read", extra={"error": error.message})
            raise

    def retain(self, apps: Collection[AppKey]) -> None:
        """Follows no others any more."""
        for app in [app for app in self._caches if app not in apps]:
            task = asyncio.ensure_future(self._caches.pop(app).close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        self.retain(())
        if self._ending:
            await asyncio.wait(self._ending)
