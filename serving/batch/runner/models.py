"""Which models the names in a batch mean: the same as at the gateways, names, namespaces and routes."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import may_ask
from serving.errors import MeshError, NotFound, PermissionDenied
from serving.gateway.asked import leads_to
from serving.gateway.catalog import Catalog, ModelKey
from serving.gateway.follower import CatalogFollower
from serving.gateway.route_follower import RouteFollower
from serving.routing import ModelRoute
from serving.store.client import EtcdClient
from serving.timeouts import wait_for

_GRACE_S: Final = 60.0  # for a model that is being deployed


class Models:
    """From `start` to `close`. Belongs to one event loop."""

    def __init__(self, client: EtcdClient, *, grace_s: float = _GRACE_S) -> None:
        """`grace_s`: so long a name may be unknown."""
        self._follower = CatalogFollower(client, (), lambda _: None)
        self._routes = RouteFollower(client)
        self._grace_s = grace_s

    async def start(self) -> None:
        """Returns with the first picture, or after some seconds without etcd: following goes on."""
        await asyncio.gather(self._follower.start(), self._routes.start())

    async def close(self) -> None:
        await asyncio.gather(self._follower.close(), self._routes.close())

    async def find(self, order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:
        """By name, the model that answers for it. A name that is not known yet is waited for, some time.

        Raises `NotFound`, `InvalidArgument` for a name that several models have, `PermissionDenied`.
        """
        await self._follower.wait_synced()
        until = time.monotonic() + self._grace_s
        while True:
            try:
                return {name: self._one(order, name) for name in names}
            except MeshError:
                left = until - time.monotonic()
                if left <= 0:
                    raise
            try:
                await wait_for(self._follower.wait_change(), min(left, 1.0))
            except asyncio.TimeoutError:
                continue

    def _one(self, order: pb.BatchOrder, name: str) -> ModelKey:
        route = self._routes.routes.get(name)
        if route is not None:
            return of_route(route, self._follower.catalog, order)
        found = self._follower.catalog.find(name, lambda key: allowed(order, key)).key
        if not allowed(order, found):
            raise PermissionDenied(f"the API key of this batch may not ask the model `{name}`")
        return found


def allowed(order: pb.BatchOrder, key: ModelKey) -> bool:
    """Whether the key that asked for the batch may ask that model."""
    return may_ask(order, namespace=key.namespace, application=key.application, model=key.model)


def of_route(route: ModelRoute, catalog: Catalog, order: pb.BatchOrder) -> ModelKey:
    """The first model of a route that has replicas, those with a share first, then its fallbacks.

    Raises `NotFound`, `PermissionDenied`.
    """
    named = [key for key in map(ModelKey.parse, route.models()) if key is not None]
    if named and not any(allowed(order, key) for key in named):
        raise PermissionDenied(f"the API key of this batch may not ask any model of the route `{route.name}`")
    offer = leads_to(route, catalog, lambda key: allowed(order, key))
    if offer is None:
        raise NotFound(f"no model of the route `{route.name}` has a replica: {', '.join(map(str, named))}")
    return offer.key
