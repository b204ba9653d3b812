"""Follows the endpoints of one application; its view outlives etcd."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from serving._proto import records_pb2 as pb
from serving.discovery.view import EndpointDecoder, EndpointView, current, newer_traffic, prefer_newer
from serving.errors import DataLoss
from serving.store import keys
from serving.store.cache import CARRY_GRACE_S, CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode
from serving.types import ROLE_DIRECT

START_WAIT_S: Final = 10.0
# A replaced store does not end how requests are shared: the master writes that again, whenever it comes back itself.
TRAFFIC_GRACE_S: Final = 7 * 24 * 3600.0

_LOG: Final = logging.getLogger(__name__)


class Resolver:
    """Keeps an `EndpointView` from `start` to `close`. Belongs to one event loop.

    The view is never torn down by errors: while etcd is away it is the last one and says so. When the store comes back
    replaced, endpoints stay until they register again, until `refused` says that nobody listens there, or for 60 s.
    """

    def __init__(
        self, client: EtcdClient, app: AppKey, *, role: str = ROLE_DIRECT, grace_s: float = CARRY_GRACE_S
    ) -> None:
        """`role` empty follows every role."""
        self.app = app
        self.role = role
        self._cache = PrefixCache(client, keys.endpoints(app, role), grace_s=grace_s, prefer=prefer_newer)
        self._decoder = EndpointDecoder(app)
        self._view = EndpointView()
        self._end_listening = self._cache.listen(self._on_update)
        self._splits: tuple[pb.TrafficSplit, ...] = ()
        self._traffic: PrefixCache | None = None
        if role in ("", ROLE_DIRECT):  # proxies do it themselves for those who ask them
            self._traffic = PrefixCache(client, keys.traffic(app), grace_s=TRAFFIC_GRACE_S, prefer=newer_traffic)
            self._traffic.listen(self._on_traffic)

    async def start(self, *, wait_s: float = START_WAIT_S) -> None:
        """Returns when the first view is there.

        Raises `StoreUnavailable` when there is none after `wait_s`; following goes on, and the view comes with etcd.
        """
        for cache in self._caches:
            await cache.start()
        until = time.monotonic() + wait_s
        for cache in self._caches:
            await cache.wait_synced(max(until - time.monotonic(), 0.0))

    async def close(self) -> None:
        """Ends following; the last view stays readable. May be repeated."""
        await asyncio.gather(*(cache.close() for cache in self._caches))

    @property
    def _caches(self) -> tuple[PrefixCache, ...]:
        return (self._cache,) if self._traffic is None else (self._cache, self._traffic)

    @property
    def synced(self) -> bool:
        """False until the first picture: the view is empty because nothing is known."""
        return all(cache.synced for cache in self._caches)

    @property
    def view(self) -> EndpointView:
        """The view now. While it is stale, its age grows with every look."""
        return replace(self._view, stale=self._cache.stale, stale_for_s=self._cache.stale_for_s)

    async def subscribe(self) -> AsyncGenerator[EndpointView, None]:
        """The view now, then after every change of it, and whenever it becomes stale or fresh."""
        updates = self._cache.subscribe()
        try:
            async for _ in updates:
                yield self.view
        finally:
            await updates.aclose()

    def refused(self, endpoint: pb.Endpoint) -> bool:
        """To be told when nobody listens at an endpoint's address. Ends it when only the carried view knows it."""
        return self._cache.drop(keys.endpoint(self.app, endpoint.role, endpoint.deployment, endpoint.id))

    def _on_update(self, _update: CacheUpdate) -> None:
        if self._traffic is not None and not self._traffic.synced:
            return  # nobody may be asked before it is known who gets what
        endpoints = self._decoder.decode(self._cache.entries())
        carried = {endpoints[key].id for key in self._cache.carried() if key in endpoints}
        self._view = EndpointView(
            endpoints=tuple(current(endpoints.values())),
            revision=self._cache.revision,
            carried=frozenset(carried),
            splits=self._splits,
        )

    def _on_traffic(self, _update: CacheUpdate) -> None:
        key = keys.traffic(self.app)
        found = self._traffic.get(key) if self._traffic is not None else None
        try:
            self._splits = tuple(decode(pb.TrafficRecord, found.value).splits) if found is not None else ()
        except DataLoss as error:
            _LOG.error("traffic record cannot be read; the last one counts", extra={"error": error.message})
        self._cache.touch()  # also then: the endpoints may have waited for this record
