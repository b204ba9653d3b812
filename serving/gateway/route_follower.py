"""Follows the routes in etcd; the last ones outlive it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from serving.errors import StoreUnavailable
from serving.routing import ModelRoute, WeightedModel
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.route_records import ROUTE_GRACE_S, newer_route, readable_routes

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0


class Routes(Protocol):
    """Routes as requests see them. `synced` False: a name may be one of a route that is not known yet."""

    @property
    def routes(self) -> Mapping[str, ModelRoute]: ...

    @property
    def synced(self) -> bool: ...


class NoRoutes:
    """Of those for one application: routes are names for the models of several."""

    routes: Mapping[str, ModelRoute] = MappingProxyType({})
    synced = True

    async def start(self) -> None:
        """There is nothing to follow."""

    async def close(self) -> None:
        """Nor to end."""


class RouteFollower:
    """`routes` by name, from `start` to `close`. Belongs to one event loop. Never torn down by errors of etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self._cache = PrefixCache(client, keys.ROUTES, grace_s=ROUTE_GRACE_S, prefer=newer_route)
        self._cache.listen(self._on_update)
        self.routes: dict[str, ModelRoute] = {}

    async def start(self) -> None:
        """Returns with the first picture, or after some seconds without etcd: following goes on."""
        await self._cache.start()
        try:
            await self._cache.wait_synced(_FIRST_VIEW_S)
        except StoreUnavailable as error:
            _LOG.warning("the routes are not known yet", extra={"error": error.message})

    async def close(self) -> None:
        await self._cache.close()

    @property
    def synced(self) -> bool:
        """False until the first picture: a name may be one of a route that is not known yet."""
        return self._cache.synced

    def _on_update(self, _update: CacheUpdate) -> None:
        records = readable_routes(self._cache.entries().values())
        self.routes = {
            name: ModelRoute(
                name,
                [WeightedModel(target.model, target.weight) for target in record.targets],
                record.fallbacks,
            )
            for name, record in sorted(records.items())
            if any(target.weight > 0 for target in record.targets)  # keepers store no others
        }
