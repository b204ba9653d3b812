"""The batches of tenants as etcd has them now; only what was written since the last look is sent and decoded."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Final

from serving.batch.orders.batch import Batch, read_batches
from serving.batch.store.reading import read_apart
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.faults import RevisionGone
from serving.store.types import KeyValue, Snapshot

_MOST: Final = 20_000  # batches that are kept in memory, of some kilobytes each
_SPARE: Final = 64  # entries of what is no more that a heap may have beside twice what is
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
        picture = await followed.join()
        self._make_room()
        return picture

    def forget(self, namespace: str) -> None:
        """What is known of it is not so: the next call reads all anew."""
        self._followed.pop(namespace, None)

    def _make_room(self) -> None:
        held = sum(len(one.picture.batches) for one in self._followed.values())
        while held > self._most or len(self._followed) > self._most:
            held -= len(self._followed.popitem(last=False)[1].picture.batches)


class _Followed:
    """One namespace."""

    def __init__(self, store: EtcdClient, namespace: str) -> None:
        self._looking: asyncio.Task[Picture] | None = None
        self._next: asyncio.Task[Picture] | None = None  # which whoever comes now may share
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
        self._newest: list[tuple[int, str]] = []  # heap of (-revision, key), also of what was written or removed since
        self._changed: set[str] = set()  # batches that are to be decoded
        self._batches: dict[str, Batch] = {}
        self._oldest_first: list[tuple[int, str]] = []

    async def join(self) -> Picture:
        """What the first look finds, or raises, that begins after this call; all that wait for it share that."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_after(self._looking), name="look at batches")
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)

    async def _look_after(self, before: asyncio.Task[Picture] | None) -> Picture:
        if before is not None:
            await asyncio.wait({before})
        self._looking, self._next = self._next, None
        return await self._look()

    async def _look(self) -> Picture:
        """May be cut off anywhere: the next one goes on."""
        if not self._revision or not await self._catch_up():
            self._revision = 0
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
            try:
                newest = await self._store.get_newest(self._prefix, until=self._revision, as_of=found.revision)
            except RevisionGone:
                return False
            agrees = self._agrees_on(newest, {kv.key for kv in found.kvs})
            self._put(found.kvs)
            if count == self._count:
                self._revision = found.revision
                return agrees
            self._revision = 0  # a look that ends here has not found out: the next one reads all anew
            there = await self._store.get_versions(self._prefix)  # keys are gone: which ones, the others tell
            self._revision = found.revision
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

    def _newest_beside(self, written: Collection[str]) -> int:
        """The revision at which the newest of the known keys was written, but for those; 0: there is no other."""
        while self._newest:
            revision, key = self._newest[0]
            if key not in written and (known := self._known(key)) is not None and known.mod_revision == -revision:
                return -revision
            heappop(self._newest)
        return 0

    def _known(self, key: str) -> KeyValue | None:
        return self._kvs.get(_batch_of(key), {}).get(key)

    def _agrees_on(self, newest: KeyValue | None, written: Collection[str]) -> bool:
        """As `_agrees`, by the newest of what was not written since, where no key is gone.

        A store that was set back may have as many keys: some were lost, others made while it came back to our revision.
        """
        revision = self._newest_beside(written)
        if newest is None:
            return not revision
        return newest.mod_revision == revision and newest == self._known(newest.key)

    def _put(self, kvs: Iterable[KeyValue]) -> None:
        for kv in kvs:
            name = _batch_of(kv.key)
            parts = self._kvs.setdefault(name, {})
            self._count += kv.key not in parts
            parts[kv.key] = kv
            heappush(self._newest, (-kv.mod_revision, kv.key))
            self._changed.add(name)
        if len(self._newest) > 2 * self._count + _SPARE:
            self._newest = [(-kv.mod_revision, key) for parts in self._kvs.values() for key, kv in parts.items()]
            heapify(self._newest)

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


def _heard(look: asyncio.Task[Picture]) -> None:
    """Where nobody waits for its outcome any more."""
    if not look.cancelled():
        look.exception()


def _batch_of(key: str) -> str:
    """What is no part of a batch counts among the keys, and is none: empty."""
    parsed = keys.parse_batch(key)
    return parsed[1] if parsed is not None else ""


def _place(batch: Batch) -> tuple[int, str]:
    return batch.order.created_at.ToNanoseconds(), batch.id
