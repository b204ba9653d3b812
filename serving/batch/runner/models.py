"""Which models the names in a batch mean: the same as at the gateways, names, namespaces and routes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from typing import Final

from serving._proto import batch_pb2 as pb
from serving._proto import records_pb2
from serving.batch.orders.batch import may_ask
from serving.batch.runner.attempts import ModelAway
from serving.batch.store.reading import read_apart
from serving.errors import DataLoss, MeshError, NotFound, PermissionDenied
from serving.gateway.asked import leads_to
from serving.gateway.catalog import Catalog, ModelKey
from serving.gateway.follower import CatalogFollower
from serving.gateway.route_follower import RouteFollower
from serving.observe import get_logger
from serving.routing import ModelRoute
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode
from serving.store.types import KeyValue
from serving.timeouts import wait_for

_LOG: Final = get_logger(__name__)
_GRACE_S: Final = 60.0  # for a model that is being deployed


class Models:
    """From `start` to `close`. Belongs to one event loop."""

    def __init__(self, client: EtcdClient, *, grace_s: float = _GRACE_S) -> None:
        """`grace_s`: so long a name may be unknown, or its model away, before an answer is given."""
        self._client = client
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

        Raises `NotFound` for a name that no application declares; at once, `InvalidArgument` for a name that several
        models have and `PermissionDenied`. Raises `ModelAway` for a model that is declared, and that nobody serves.
        """
        await self._follower.wait_synced()
        until = time.monotonic() + self._grace_s
        declared: Collection[ModelKey] | None = None
        while True:
            found, refusals = self._sorted_out(order, names)
            if not refusals:
                return found
            left = until - time.monotonic()
            denied = [name for name, error in refusals.items() if isinstance(error, PermissionDenied)]
            if left <= 0 or (denied and declared is None):
                declared = await self._declared(order)
                for name in refusals if left <= 0 else denied:
                    if not self._may_come(name, declared):
                        raise refusals[name]
            if left <= 0:
                raise ModelAway(f"deployed, and served by nobody: {', '.join(refusals)}")
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._follower.wait_change(), min(left, 1.0))

    def _sorted_out(
        self, order: pb.BatchOrder, names: tuple[str, ...]
    ) -> tuple[dict[str, ModelKey], dict[str, MeshError]]:
        """The models of the names, and why other names have none. Raises `InvalidArgument`."""
        found: dict[str, ModelKey] = {}
        refusals: dict[str, MeshError] = {}
        for name in names:
            try:
                found[name] = self._one(order, name)
            except (NotFound, PermissionDenied) as error:
                refusals[name] = error
        return found, refusals

    async def _declared(self, order: pb.BatchOrder) -> Collection[ModelKey]:
        """The models that specs of applications name, and that the order may ask. Raises `StoreUnavailable`."""
        stored = await self._client.get_prefix(keys.APPS)
        named = await read_apart(declared_models, [kv for kv in stored.kvs if kv.key.endswith("/spec")])
        return [key for key in named if allowed(order, key)]

    def _may_come(self, name: str, declared: Collection[ModelKey]) -> bool:
        """Whether one of those models would answer for the name."""
        route = self._routes.routes.get(name)
        if route is not None:
            return any(ModelKey.parse(model) in declared for model in route.order("", lambda: 0.0))
        return any(name in (key.model, f"{key.application}/{key.model}", str(key)) for key in declared)

    def _one(self, order: pb.BatchOrder, name: str) -> ModelKey:
        route = self._routes.routes.get(name)
        if route is not None:
            return of_route(route, self._follower.catalog, order)
        found = self._follower.catalog.find(name, lambda key: allowed(order, key)).key
        if not allowed(order, found):
            raise PermissionDenied(f"the API key of this batch may not ask the model `{name}`")
        return found


def declared_models(kvs: Sequence[KeyValue]) -> list[ModelKey]:
    """Those that answer what batches may ask, of the specs of applications. A spec that is damaged names none."""
    found = []
    for kv in kvs:
        named = keys.parse_app(kv.key)
        if named is None or named[1] != "spec":
            continue
        try:
            stored = decode(records_pb2.StoredSpec, kv.value)
        except DataLoss as error:
            _LOG.warning("spec ignored", store_key=kv.key, reason=error.message)
            continue
        for deployment in () if stored.deleting else stored.spec.deployments:
            kind = deployment.WhichOneof("kind")
            if kind in ("llm", "embedding"):
                model = getattr(deployment, kind).model or deployment.name
                found.append(ModelKey(named[0].namespace, named[0].name, model))
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
