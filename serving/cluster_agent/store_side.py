"""What an agent reads and writes in etcd about placements."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from google.protobuf.message import Message

from serving._proto import records_pb2 as pb
from serving.cluster_agent.judge import must_end
from serving.cluster_agent.model import Placed
from serving.errors import DataLoss
from serving.master.order import app_key
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient
from serving.store.records import decode, encode
from serving.store.types import Compare, KeyValue, Op

_LOG: Final = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)


class Placements:
    """The work orders of one cluster, followed."""

    def __init__(self, client: EtcdClient, cluster: str, on_change: Callable[[bool], None]) -> None:
        """`on_change(replaced)` is called after every change; `replaced` when the store came back empty or older."""
        self._cluster = cluster
        self._on_change = on_change
        self._cache = PrefixCache(client, keys.placements(cluster))
        self._cache.listen(self._hear)

    async def start(self) -> None:
        await self._cache.start()

    async def close(self) -> None:
        await self._cache.close()

    @property
    def fresh(self) -> bool:
        """Only then does absence mean anything."""
        return self._cache.synced and not self._cache.stale

    @property
    def stale_for_s(self) -> float:
        return self._cache.stale_for_s

    def known(self) -> dict[keys.AppKey, Placed]:
        """What the store holds. Entries that it lost are left out: what runs is judged, and written back."""
        found: dict[keys.AppKey, Placed] = {}
        for key, kv in self._cache.entries().items():
            parsed = keys.parse_placement(key)
            order = _decode(pb.Placement, kv)
            if parsed is None or order is None or self._cache.is_carried(key):
                continue
            if app_key(order) != parsed[1] or order.cluster != self._cluster:
                _LOG.error("placement names something else than its key", extra={"key": key})
                continue
            found[parsed[1]] = Placed(order, kv.mod_revision)
        return found

    def _hear(self, update: CacheUpdate) -> None:
        self._on_change(update.replaced)


async def why_end(client: EtcdClient, order: pb.Placement) -> str:
    """Reads, in one transaction, what is said of an application without a placement. Empty: nothing ends its master."""
    app = app_key(order)
    names = (keys.spec(app), keys.decision(app), keys.deleted(app, order.stored.uid))
    result = await client.txn([], [Op.get(name) for name in names])
    spec, decision, tombstone = (answer.kv for answer in result.results)
    return must_end(
        order, _decode(pb.StoredSpec, spec), _decode(pb.Decision, decision), tombstone=tombstone is not None
    )


async def restore(client: EtcdClient, order: pb.Placement, mod_revision: int) -> bool:
    """Writes a work order back where the store lost it (0) or holds an older one. False: look again, it has changed."""
    app = app_key(order)
    key = keys.placement(order.cluster, app)
    conditions = [Compare.mod_revision(key, mod_revision), Compare.absent(keys.deleted(app, order.stored.uid))]
    return (await client.txn(conditions, [Op.put(key, encode(order))])).succeeded


def _decode(kind: type[M], kv: KeyValue | None) -> M | None:
    if kv is None:
        return None
    try:
        return decode(kind, kv.value)
    except DataLoss as error:
        _LOG.error("a record is damaged", extra={"key": kv.key, "error": error.message})
        return None
