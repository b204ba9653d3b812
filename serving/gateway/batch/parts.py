"""What a gateway with a file store is made of."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.batch.orders.book import OrderBook
from serving.batch.store.content import ContentStore
from serving.batch.store.files import FileBook, FileLimits
from serving.batch.store.sweeping import Sweeper
from serving.errors import ResourceExhausted
from serving.gateway.batch.settings import BatchLimits
from serving.store.client import EtcdClient


class BatchInstruments:
    """Prometheus metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.uploads = Gauge("mesh_gateway_uploads_running", "Files that are being sent.", registry=registry)
        self.files = Counter(
            "mesh_gateway_files", "Files that were sent, by what became of them.", ["result"], registry=registry
        )
        self.bytes = Counter("mesh_gateway_file_bytes", "Bytes of files that were sent and kept.", registry=registry)
        self.batches = Counter("mesh_gateway_batches", "Batches that were ordered.", ["endpoint"], registry=registry)


class BatchParts:
    """`start`, then `run`. Belongs to one event loop; `store` is its owner's to close."""

    def __init__(self, url: str, limits: BatchLimits, store: EtcdClient, registry: CollectorRegistry) -> None:
        """Raises `InvalidArgument`, `NotSupported` for a URL that is none of a folder."""
        self.limits = limits
        self.content = ContentStore(url)
        self.files = FileBook(store, self.content, FileLimits(limits.max_files, limits.max_stored_bytes))
        self.orders = OrderBook(
            store, max_unfinished=limits.max_unfinished, max_enqueued_tokens=limits.max_enqueued_tokens
        )
        self.instruments = BatchInstruments(registry)
        self._sweeper = Sweeper(store, self.content, keep_ended_s=limits.keep_ended_s, max_ended=limits.max_ended)
        self._uploading: Counts[str] = Counts()

    async def start(self) -> None:
        """Raises `StorageFull`, `Unavailable` where there can be no file store."""
        await asyncio.to_thread(self.content.start)

    async def run(self) -> None:
        """Until it is cancelled: removes what is not needed any more."""
        await self._sweeper.run()

    @contextmanager
    def uploading(self, tenant: str) -> Iterator[None]:
        """A place among the uploads. Raises `ResourceExhausted`."""
        limits = self.limits
        if self._uploading[tenant] >= limits.max_uploads or self._uploading.total() >= limits.max_all_uploads:
            raise ResourceExhausted(f"{self._uploading[tenant]} files are being sent: wait until one has arrived")
        self._uploading[tenant] += 1
        try:
            with self.instruments.uploads.track_inprogress():
                yield
        finally:
            self._uploading[tenant] -= 1
            if not self._uploading[tenant]:
                del self._uploading[tenant]
