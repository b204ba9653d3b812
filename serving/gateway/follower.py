"""Follows the endpoints of all applications; the last catalog outlives etcd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from serving._proto import records_pb2 as pb
from serving.discovery.view import EndpointDecoder, current, prefer_newer
from serving.errors import StoreUnavailable
from serving.gateway.catalog import Catalog, speaks_kserve_rest
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.keys import AppKey

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0


class Following(Protocol):
    """A catalog that is kept up to date: what forwarding needs to know of who follows it."""

    @property
    def catalog(self) -> Catalog: ...

    async def wait_change(self) -> None: ...

    def refused(self, endpoint: pb.Endpoint) -> bool: ...


class CatalogFollower:
    """Keeps a `Catalog` from `start` to `close`. Belongs to one event loop. Never torn down by errors of etcd."""

    def __init__(
        self,
        client: EtcdClient,
        namespaces: tuple[str, ...],
        on_change: Callable[[Catalog], None],
        *,
        app: AppKey | None = None,
    ) -> None:
        """`on_change` is called with each new catalog, on the loop. With `app` it is of that application."""
        prefix = f"{keys.ENDPOINTS}{namespaces[0]}/" if len(namespaces) == 1 else keys.ENDPOINTS
        if app is not None:
            prefix = keys.endpoints(app)
        self._cache = PrefixCache(client, prefix, prefer=prefer_newer)
        self._namespaces = namespaces
        self._on_change = on_change
        self._decoder = EndpointDecoder(None)
        self._listeners: list[Callable[[Sequence[pb.Endpoint]], None]] = []
        self._changed = asyncio.Event()
        self.catalog = Catalog()
        self._cache.listen(self._on_update)

    async def start(self) -> None:
        """Returns with the first catalog, or after some seconds without etcd: following goes on."""
        await self._cache.start()
        try:
            await self._cache.wait_synced(_FIRST_VIEW_S)
        except StoreUnavailable as error:
            _LOG.warning("the models are not known yet", extra={"error": error.message})

    async def wait_synced(self) -> None:
        """Returns with the first catalog, however long etcd is away. Raises `FailedPrecondition` when it is closed."""
        await self._cache.wait_synced(None)

    async def close(self) -> None:
        await self._cache.close()

    @property
    def synced(self) -> bool:
        """False until the first picture: there are no models because nothing is known."""
        return self._cache.synced

    @property
    def stale(self) -> bool:
        return self._cache.stale

    async def wait_change(self) -> None:
        """Returns with the next catalog."""
        await self._changed.wait()

    def listen(self, listener: Callable[[Sequence[pb.Endpoint]], None]) -> None:
        """Calls it with the endpoints of each new catalog, before that is told; before `start`."""
        self._listeners.append(listener)

    def refused(self, endpoint: pb.Endpoint) -> bool:
        """To be told when nobody listens at an endpoint's address. Ends it when only the carried view knows it."""
        app = AppKey(endpoint.namespace, endpoint.application)
        return self._cache.drop(keys.endpoint(app, endpoint.role, endpoint.deployment, endpoint.id))

    def _on_update(self, _update: CacheUpdate) -> None:
        endpoints = self._decoder.decode(self._cache.entries())
        known = current(endpoints.values())
        for listener in self._listeners:
            listener(known)
        self.catalog = Catalog(known, self._namespaces)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change(self.catalog)


class RestFollower:
    """The models of the same endpoints that answer KServe v2 over HTTP. Lives as long as the other one."""

    def __init__(
        self, follower: CatalogFollower, namespaces: tuple[str, ...], on_change: Callable[[Catalog], None]
    ) -> None:
        self._follower = follower
        self._namespaces = namespaces
        self._on_change = on_change
        self.catalog = Catalog()
        follower.listen(self._on_endpoints)

    async def wait_change(self) -> None:
        await self._follower.wait_change()

    def refused(self, endpoint: pb.Endpoint) -> bool:
        return self._follower.refused(endpoint)

    def _on_endpoints(self, endpoints: Sequence[pb.Endpoint]) -> None:
        self.catalog = Catalog(endpoints, self._namespaces, speaks_kserve_rest)
        self._on_change(self.catalog)
