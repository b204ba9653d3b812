"""The orders of batches of mode `own`, followed while a keeper leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keeper.own_apps import Name
from serving.batch.orders.batch import APPLICATION, CANCEL, CLAIM, ENDED_STATES, ORDER, STATUS, Batch, read_batches
from serving.store import EtcdClient, keys
from serving.store.cache import CacheUpdate, PrefixCache

_PARTS: Final = (ORDER, STATUS, CANCEL, CLAIM, APPLICATION)


class OwnOrders:
    """From `start` to `close`. Statuses of batches of mode `shared`, which are written all the time, are passed over.

    After the store was replaced, orders that it lost stay known for a while, as `PrefixCache` keeps them.
    """

    def __init__(self, client: EtcdClient, on_change: Callable[[], None]) -> None:
        """`on_change` hears when a batch began, ended, was cancelled, claimed or noted, not of each count; and of the
        store's coming and going."""
        self._cache = PrefixCache(client, keys.BATCHES)
        self._on_change = on_change
        self._unfinished: dict[Name, Batch] = {}
        self._unreadable: set[Name] = set()
        self._was_fresh = False
        self._cache.listen(self._take)

    async def start(self) -> None:
        """Returns at once."""
        await self._cache.start()

    async def close(self) -> None:
        await self._cache.close()

    @property
    def fresh(self) -> bool:
        """It is followed: a batch that is not shown has ended, or is gone."""
        return self._cache.synced and not self._cache.stale

    @property
    def unfinished(self) -> dict[Name, Batch]:
        """Those of mode `own` that no runner has ended. Not to be changed."""
        return self._unfinished

    @property
    def unreadable(self) -> frozenset[Name]:
        """Batches with a damaged record, of whatever mode."""
        return frozenset(self._unreadable)

    def _take(self, update: CacheUpdate) -> None:
        parts: dict[Name, set[str]] = {}
        for key in update.keys:
            parsed = keys.parse_batch(key)
            if parsed is not None:
                parts.setdefault(parsed[:2], set()).add(parsed[2])
        changed = [self._note(name) for name, of in parts.items() if self._concerns(name, of)]
        was_fresh, self._was_fresh = self._was_fresh, self.fresh
        if any(changed) or was_fresh != self._was_fresh:
            self._on_change()

    def _concerns(self, name: Name, parts: set[str]) -> bool:
        return ORDER in parts or name in self._unfinished or name in self._unreadable

    def _note(self, name: Name) -> bool:
        """Whether more than counts has changed."""
        found = [self._cache.get(keys.batch(*name, part)) for part in _PARTS]
        batch = read_batches(kv for kv in found if kv is not None).get(name)
        before = self._unfinished.pop(name, None)
        self._unreadable.discard(name)
        if batch is None and found[0] is not None:
            self._unreadable.add(name)
        elif batch is not None and batch.own and not _has_ended(batch):
            self._unfinished[name] = batch
        return _shape(before) != _shape(self._unfinished.get(name))


def _has_ended(batch: Batch) -> bool:
    return batch.status is not None and batch.status.state in ENDED_STATES


def _shape(batch: Batch | None) -> tuple[object, ...]:
    if batch is None:
        return ()
    return batch.order_revision, batch.status is None, batch.cancel, batch.claim, batch.application
