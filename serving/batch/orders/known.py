"""The batches of tenants as etcd has them now; only what was written since the last look is sent and decoded."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from serving.batch.orders.batch import Batch, read_batches
from serving.batch.store.reading import read_apart
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.types import KeyValue, Snapshot

_MOST: Final = 20_000  # batches that are kept in memory, of some kilobytes each
_LOOKS: Final = 3  # at keys that are removed all the time


@dataclass(frozen=True, slots=True)
class Picture:
    """The batches of a namespace, by id, as of a revision. Not to be changed."""

    batches: Mapping[str, Batch]
    newest_first: Sequence[Batch]
    revision: int


class KnownBatches:
    """Each `read` asks etcd: what it gives is never older than the call. Belongs to one event loop."""

    def __init__(self, store: EtcdClient, *, most: int = _MOST) -> None:
        """`most` batches are kept, of the namespaces that were read last."""
        self._store = store
        self._most = most
        self._followed: OrderedDict[str, _Followed] = OrderedDict()

    async def read(self, namespace: str) -> Picture:
        """Raises `StoreUnavailable`."""
        followed = self._followed.setdefault(namespace, _Followed(self._store, namespace))
        self._followed.move_to_end(namespace)
        async with followed.lock:
            picture = await followed.look()
        self._forget()
        return picture

    def _forget(self) -> None:
        held = sum(len(one.picture.batches) for one in self._followed.values())
        while held > self._most or len(self._followed) > self._most:
            held -= len(self._followed.popitem(last=False)[1].picture.batches)


class _Followed:
    """One namespace."""

    def __init__(self, store: EtcdClient, namespace: str) -> None:
        self.lock = asyncio.Lock()
        self.picture = Picture({}, (), 0)
        self._store = store
        self._namespace = namespace
        self._prefix = keys.batches(namespace)
        self._begin(0)

    def _begin(self, cluster_id: int) -> None:
        self._cluster_id = cluster_id
        self._revision = 0
        self._kvs: dict[str, dict[str, KeyValue]] = {}  # by batch and key
        self._count = 0
        self._changed: set[str] = set()  # batches that are to be decoded
        self._batches: dict[str, Batch] = {}
        self._oldest_first: list[tuple[int, str]] = []

    async def look(self) -> Picture:
        """May be cancelled anywhere: the next one goes on."""
        if not self._revision or not await self._catch_up():
            found = await self._store.get_prefix(self._prefix)
            self._begin(found.cluster_id)
            self._put(found.kvs)
            self._revision = found.revision
        if self._changed or not self.picture.revision:
            await self._decode()
            newest_first = [self._batches[name] for _, name in reversed(self._oldest_first)]
            self.picture = Picture(dict(self._batches), newest_first, self._revision)
        self.picture = replace(self.picture, revision=self._revision)
        return self.picture

    async def _catch_up(self) -> bool:
        """False: this is not what was followed, or it changes too fast."""
        for _ in range(_LOOKS):
            found, count = await self._store.get_written(self._prefix, after=self._revision)
            if not self._goes_on(found):
                return False
            self._put(found.kvs)
            self._revision = found.revision
            if count == self._count:
                return True
            there = await self._store.get_versions(self._prefix)  # keys are gone: which ones, the others tell
            versions = {kv.key: kv.mod_revision for kv in there.kvs}
            if not self._goes_on(there) or not self._agrees(versions):
                return False
            self._drop(versions)
        return False

    def _goes_on(self, found: Snapshot) -> bool:
        return found.cluster_id == self._cluster_id and found.revision >= self._revision

    def _agrees(self, versions: Mapping[str, int]) -> bool:
        """Whether what was not written since is what is kept: a store that was set back may hold another past."""
        known = {key: kv.mod_revision for parts in self._kvs.values() for key, kv in parts.items()}
        return all(known.get(key) == at for key, at in versions.items() if at <= self._revision)

    def _put(self, kvs: Iterable[KeyValue]) -> None:
        for kv in kvs:
            parsed = keys.parse_batch(kv.key)
            name = parsed[1] if parsed is not None else ""  # what is no part of a batch counts, and is none
            parts = self._kvs.setdefault(name, {})
            self._count += kv.key not in parts
            parts[kv.key] = kv
            self._changed.add(name)

    def _drop(self, versions: Mapping[str, int]) -> None:
        """What is not there any more."""
        for name, parts in list(self._kvs.items()):
            gone = [key for key in parts if key not in versions]
            if not gone:
                continue
            for key in gone:
                del parts[key]
            if not parts:
                del self._kvs[name]
            self._count -= len(gone)
            self._changed.add(name)

    async def _decode(self) -> None:
        names = self._changed - {""}
        read = await read_apart(read_batches, [kv for name in names for kv in self._kvs.get(name, {}).values()])
        for name in names:
            before, now = self._batches.pop(name, None), read.get((self._namespace, name))
            if before is not None:
                self._oldest_first.pop(bisect_left(self._oldest_first, _place(before)))
            if now is not None:
                self._batches[name] = now
                insort(self._oldest_first, _place(now))
        self._changed.clear()


def _place(batch: Batch) -> tuple[int, str]:
    return batch.order.created_at.ToNanoseconds(), batch.id
