"""What is not needed any more: expired files, batches that ended long ago, and what nobody names.

Every gateway does it; two of them at once remove the same things, each by its own right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import Batch, ends_at, read_batches
from serving.batch.store.content import ContentStore, Found, told
from serving.batch.store.files import has_expired, read_files, remove_unread
from serving.batch.store.reading import read_apart
from serving.errors import MeshError
from serving.observe import get_logger
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.types import Compare, Op, Snapshot

LEFTOVER_S: Final = 24 * 3600.0  # no upload takes so long, and nobody waits so long between content and record
_EVERY_S: Final = 600.0
_LOG: Final = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many of each were removed. `contents`: without a record. `jobs`: folders of batches that have ended."""

    files: int
    batches: int
    contents: int
    uploads: int
    jobs: int

    @property
    def any(self) -> bool:
        return any((self.files, self.batches, self.contents, self.uploads, self.jobs))


class Sweeper:
    """Belongs to one event loop; `store` is its owner's to close. Times are unix seconds."""

    def __init__(self, store: EtcdClient, content: ContentStore, *, keep_ended_s: float, max_ended: int) -> None:
        """Of batches that have ended, `max_ended` of a namespace are kept for `keep_ended_s`."""
        self._store = store
        self._content = content
        self._keep_ended_s = keep_ended_s
        self._max_ended = max_ended

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.sweep(time.time())
            except MeshError as error:
                _LOG.warning("the file store was not swept", error=error.message)

    async def sweep(self, now: float) -> Swept:
        """Once. Raises `StoreUnavailable`, `Unavailable`."""
        # Content first, records after: what has a record when they are read has one, whenever it came.
        contents = await asyncio.to_thread(self._old_contents, now)
        folders = await asyncio.to_thread(self._work_folders)
        files = await self._store.get_prefix(keys.FILES)
        orders = await self._store.get_prefix(keys.BATCHES)
        records = await read_apart(read_files, files.kvs)
        read = (await read_apart(read_batches, orders.kvs)).values()
        removed_files = await self._expired_files(files, records, orders, read, now)
        batches = await self._ended_batches(read, orders.revision, now)
        orphans = _unnamed(contents, files, records)
        for uri in orphans:
            await asyncio.to_thread(self._content.remove, uri)
        uploads = await asyncio.to_thread(self._sweep_uploads, now)
        done = [one for one in folders if one not in _unfinished(orders, read, now)]
        for one in done:
            await asyncio.to_thread(self._content.remove_work_folder, *one)
        swept = Swept(removed_files, batches, len(orphans), uploads, len(done))
        if swept.any:
            _LOG.info(
                "the file store is swept",
                files=removed_files,
                batches=batches,
                contents=len(orphans),
                uploads=uploads,
                jobs=len(done),
            )
        return swept

    def _old_contents(self, now: float) -> list[Found]:
        with told(f"the file store {self._content.folder}"):
            return [one for one in self._content.found() if one.changed_at < now - LEFTOVER_S]

    def _work_folders(self) -> list[tuple[str, str]]:
        with told(f"the file store {self._content.folder}"):
            return list(self._content.work_folders())

    def _sweep_uploads(self, now: float) -> int:
        with told(f"the file store {self._content.folder}"):
            return self._content.sweep_uploads(now - LEFTOVER_S)

    async def _expired_files(
        self,
        files: Snapshot,
        records: Mapping[str, pb.FileRecord],
        orders: Snapshot,
        batches: Iterable[Batch],
        now: float,
    ) -> int:
        read = {(one.namespace, one.order.input_file) for one in batches if ends_at(one, now) is None}
        removed = 0
        for kv in files.kvs:
            record = records.get(kv.key)
            if record is None or not has_expired(record, now) or (record.namespace, record.id) in read:
                continue
            removed += await remove_unread(self._store, self._content, record, kv.mod_revision, orders.revision)
        return removed

    async def _ended_batches(self, batches: Iterable[Batch], revision: int, now: float) -> int:
        """`revision`: as of which they were read."""
        of_namespace: dict[str, list[tuple[float, Batch]]] = {}
        for batch in batches:
            ended = ends_at(batch, now)
            if ended is not None:
                of_namespace.setdefault(batch.namespace, []).append((ended, batch))
        removed = 0
        for ended_ones in of_namespace.values():
            for batch in self._outlived(ended_ones, now):
                prefix = keys.batch(batch.namespace, batch.id, "")
                conditions = [Compare.prefix_mod_before(prefix, revision + 1)]
                removed += (await self._store.txn(conditions, [Op.delete_prefix(prefix)])).succeeded
        return removed

    def _outlived(self, ended: Sequence[tuple[float, Batch]], now: float) -> list[Batch]:
        newest = sorted(ended, key=lambda one: (one[0], one[1].id), reverse=True)
        old = [batch for at, batch in newest[: self._max_ended] if at < now - self._keep_ended_s]
        return old + [batch for _, batch in newest[self._max_ended :]]


def _unfinished(orders: Snapshot, batches: Iterable[Batch], now: float) -> set[tuple[str, str]]:
    """Namespace and id of those that may be gone on with; what cannot be read is one of them."""
    named = {parsed[:2] for parsed in (keys.parse_batch(kv.key) for kv in orders.kvs) if parsed is not None}
    return named - {(one.namespace, one.id) for one in batches if ends_at(one, now) is not None}


def _unnamed(contents: Iterable[Found], files: Snapshot, records: Mapping[str, pb.FileRecord]) -> list[str]:
    """Where a record of the namespace cannot be read, all that is there may be its content."""
    named = {one.uri for one in records.values()}
    unclear = {kv.key.removeprefix(keys.FILES).partition("/")[0] for kv in files.kvs if kv.key not in records}
    return [one.uri for one in contents if one.uri not in named and one.namespace not in unclear]
