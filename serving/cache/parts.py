"""What a semantic cache's replica is made of: embedder, store, server, and what all replicas with HTTP have."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Final

from serving._proto import records_pb2 as pb
from serving.cache import settings
from serving.cache.app import CacheApp
from serving.cache.embedding import cache_embedder
from serving.cache.folder import FolderLock
from serving.cache.instruments import CacheInstruments
from serving.cache.semantic_cache import SemanticCache
from serving.cache.store import EntryStore
from serving.cache.turns import Turns
from serving.errors import MeshError
from serving.openai_http.parts import HttpParts
from serving.python_deployment.instruments import Statistics
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_WARM_UP: Final = "Hello"
_LOCK_S: Final = 60.0
_SWEEP_S: Final = 60.0


class CacheParts(HttpParts):
    """`load` comes first, then see `HttpParts`."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str) -> None:
        super().__init__(config, node_address)
        self._lock = FolderLock(settings.folder(config))
        self._store: EntryStore | None = None
        self._turns: Turns | None = None
        self._app: CacheApp | None = None
        self._calls = Statistics()
        self._sweeping: asyncio.Task[None] | None = None

    def _statistics(self) -> Statistics:
        return self._calls

    def _endpoint(self, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
        return settings.endpoint(self._config, report, node)

    def _failure(self) -> str:
        return ""  # a store or an embedder that fails costs hits, which `mesh_cache_failures_total` counts

    # ------------------------------------------------------------------------------------------------ coming up

    async def load(self, tell: Callable[[str], None]) -> None:
        """Loads the embedder, and what was kept before. `tell` hears what it does. Raises `FailedPrecondition`."""
        config = self._config
        tell("loads the embedding model")
        embedder = await asyncio.to_thread(cache_embedder, config.semantic_cache.threads)
        await asyncio.to_thread(embedder.encode, [_WARM_UP])
        tell("waits for its folder")
        await asyncio.to_thread(self._lock.take, _LOCK_S)
        tell("reads what it keeps")
        kept_for, limits = settings.kept_for(config, embedder.name), settings.limits(config)
        folder = settings.folder(config)
        self._store = await asyncio.to_thread(EntryStore, folder, embedder.dimension, kept_for, limits)
        self._turns = Turns(SemanticCache(self._store, embedder, settings.options(config)))
        _LOG.info("cache opened", extra={"folder": str(folder), "entries": self._store.count})

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where. Raises `FailedPrecondition`."""
        assert self._turns is not None
        assert self._store is not None
        instruments = CacheInstruments(self._turns, self._store, self._registry, self._calls)
        self._app = CacheApp(self._turns, instruments, self._registry, name=self._config.id)
        self._sweeping = asyncio.create_task(self._sweep(self._store, self._turns), name="cache-sweep")
        return await self._serve(self._app)

    @staticmethod
    async def _sweep(store: EntryStore, turns: Turns) -> None:
        """Until cancelled: what has expired would otherwise stay until there is no room."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                removed = await turns.run(store.sweep)
                _LOG.debug("swept", extra={"removed": removed})
            except (MeshError, sqlite3.Error) as error:
                _LOG.warning("expired answers could not be removed", extra={"error": str(error)})

    # ------------------------------------------------------------------------------------------------ going down

    def refuse(self) -> None:
        super().refuse()
        if self._app is not None:
            self._app.drain()

    async def _release(self) -> None:
        if self._sweeping is not None:
            await cancel_and_wait(self._sweeping)
        if self._turns is not None:
            await asyncio.to_thread(self._turns.close)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)
        self._lock.release()
