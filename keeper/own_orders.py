"""The orders of batches of mode `own`, followed as long as a keeper lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

from keeper.own_apps import Name
from serving.batch.orders.batch import (
    APPLICATION,
    CANCEL,
    CLAIM,
    ENDED_STATES,
    MODE_OWN,
    ORDER,
    STATUS,
    Batch,
    read_batches,
)
from serving.store import EtcdClient, keys
from serving.store.cache import CacheUpdate, PrefixCache

_PARTS: Final = (ORDER, STATUS, CANCEL, CLAIM, APPLICATION)
_AT_ONCE: Final = 500  # keys, some milliseconds: more are looked through in slices, and others have a turn in between
_SAYS_OWN: Final = f'"{MODE_OWN}"'.encode()  # as every order of mode `own` has it, and few others: records are JSON


class OwnOrders:
    """Follows them while `run` does. Batches of mode `shared`, which are written all the time, are passed over.

    It is one for the keeper's whole life, not for each leadership: what a replaced store has lost is remembered here,
    also by a keeper that becomes the leader after it.
    """

    def __init__(self, client: EtcdClient, on_change: Callable[[], None]) -> None:
        """`on_change` hears when a batch began, ended, was cancelled, claimed or noted, not of each count; and of the
        store's coming and going."""
        self._cache = PrefixCache(client, keys.BATCHES)
        self._on_change = on_change
        self._unfinished: dict[Name, Batch] = {}
        self._unreadable: set[Name] = set()
        self._news: dict[str, None] = {}  # keys that were written and not looked at yet
        self._much = asyncio.Event()
        self._was_fresh = False
        self._cache.listen(self._take)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._cache.start()
            while True:
                await self._much.wait()
                self._much.clear()
                while self._news:
                    self._look()
                    await asyncio.sleep(0)
        finally:
            await self._cache.close()

    @property
    def fresh(self) -> bool:
        """It is followed, and all that was read is known."""
        return self._cache.synced and not self._cache.stale and not self._news

    @property
    def unfinished(self) -> dict[Name, Batch]:
        """Those of mode `own` that no runner has ended. Not to be changed."""
        return self._unfinished

    @property
    def unreadable(self) -> frozenset[Name]:
        """Batches of mode `own` with a damaged record."""
        return frozenset(self._unreadable)

    def carried(self) -> frozenset[Name]:
        """Batches with a record that is only remembered, of before the store was replaced: no comparison of it holds
        in the store as it is."""
        parsed = [keys.parse_batch(key) for key in self._cache.carried()]
        return frozenset(one[:2] for one in parsed if one is not None)

    def has_order(self, name: Name) -> bool:
        return self._cache.get(keys.batch(*name, ORDER)) is not None

    def is_readable(self, name: Name) -> bool:
        return self._read(name) is not None

    def _take(self, update: CacheUpdate) -> None:
        self._news.update(dict.fromkeys(update.keys))
        if len(self._news) > _AT_ONCE:
            self._much.set()
        else:
            self._look()

    def _look(self) -> None:
        """Takes one slice of the news in, and tells if it matters."""
        parts: dict[Name, set[str]] = {}
        for key in list(islice(self._news, _AT_ONCE)):
            del self._news[key]
            parsed = keys.parse_batch(key)
            if parsed is not None:
                parts.setdefault(parsed[:2], set()).add(parsed[2])
        changed = [self._note(name) for name, of in parts.items() if self._concerns(name, of)]
        was_fresh, self._was_fresh = self._was_fresh, self.fresh
        if any(changed) or was_fresh != self._was_fresh:
            self._on_change()

    def _concerns(self, name: Name, parts: set[str]) -> bool:
        if name in self._unfinished or name in self._unreadable:
            return True
        order = self._cache.get(keys.batch(*name, ORDER)) if ORDER in parts else None
        return order is not None and _SAYS_OWN in order.value  # the others are not even decoded

    def _note(self, name: Name) -> bool:
        """Whether more than counts has changed."""
        batch = self._read(name)
        before = self._unfinished.pop(name, None)
        self._unreadable.discard(name)
        if batch is None and self.has_order(name):
            self._unreadable.add(name)
        elif batch is not None and batch.own and not _has_ended(batch):
            self._unfinished[name] = batch
        return _shape(before) != _shape(self._unfinished.get(name))

    def _read(self, name: Name) -> Batch | None:
        found = [self._cache.get(keys.batch(*name, part)) for part in _PARTS]
        return read_batches(kv for kv in found if kv is not None).get(name)


def _has_ended(batch: Batch) -> bool:
    return batch.status is not None and batch.status.state in ENDED_STATES


def _shape(batch: Batch | None) -> tuple[object, ...]:
    if batch is None:
        return ()
    return batch.order_revision, batch.status is None, batch.cancel, batch.claim, batch.application
