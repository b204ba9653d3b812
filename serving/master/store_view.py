"""What a master reads from etcd: its placement, its application's endpoints, specs of older revisions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss, StoreUnavailable
from serving.master.model import EndpointFact
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode
from serving.store.types import Changes, Disconnected, KeyValue, Resync, WatchEvent

_LOG: Final = logging.getLogger(__name__)
_RETRY_S: Final = 1.0


class PlacementWatch:
    """Calls `on_order` with every work order that appears under the master's key. Absence is never an order."""

    def __init__(
        self,
        client: EtcdClient,
        key: str,
        on_order: Callable[[pb.Placement], None],
        on_store: Callable[[bool, bool], None],
    ) -> None:
        """`on_store(reachable, replaced)` is told whenever that changes."""
        self._client = client
        self._key = key
        self._on_order = on_order
        self._on_store = on_store

    async def run(self) -> None:
        async with aclosing(self._client.watch(self._key)) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        if isinstance(event, Disconnected):
            self._on_store(False, False)
            return
        self._on_store(True, isinstance(event, Resync) and event.store_replaced)
        for kv in event.snapshot.kvs if isinstance(event, Resync) else event.puts:
            if kv.key != self._key:  # the prefix also fits longer names
                continue
            try:
                self._on_order(decode(pb.Placement, kv.value))
            except DataLoss as error:
                _LOG.error("placement is damaged", extra={"key": kv.key, "error": error.message})


class EndpointView:
    """The endpoints of one application, of any role, as etcd shows them. Dead processes' leases are found here."""

    def __init__(self, client: EtcdClient, app: keys.AppKey, on_change: Callable[[], None]) -> None:
        self._client = client
        self._prefix = keys.endpoints(app)
        self._on_change = on_change
        self._facts: dict[str, EndpointFact] = {}

    def facts(self) -> tuple[EndpointFact, ...]:
        return tuple(self._facts.values())

    async def run(self) -> None:
        async with aclosing(self._client.watch(self._prefix)) as events:
            async for event in events:
                if isinstance(event, Resync):
                    self._facts.clear()  # leases of a store that is no more are nothing to revoke
                    self._put(event.snapshot.kvs)
                elif isinstance(event, Changes):
                    for key in event.deletes:
                        self._facts.pop(key, None)
                    self._put(event.puts)
                self._on_change()

    def _put(self, kvs: tuple[KeyValue, ...]) -> None:
        for kv in kvs:
            try:
                endpoint = decode(pb.Endpoint, kv.value)
            except DataLoss as error:
                _LOG.error("endpoint is damaged", extra={"key": kv.key, "error": error.message})
                continue
            replica = endpoint.replica or endpoint.id
            self._facts[kv.key] = EndpointFact(replica, endpoint.generation, endpoint.pid, kv.lease)


class SpecHistory:
    """Specs of older revisions, to know which replicas a new one leaves as they are."""

    def __init__(self, client: EtcdClient, app: keys.AppKey, uid: str, on_change: Callable[[], None]) -> None:
        self._client = client
        self._app = app
        self._uid = uid
        self._on_change = on_change
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._asked: set[int] = set()
        self.specs: dict[int, pb.ApplicationSpec | None] = {}  # None: lost, nobody can say any more

    def learn(self, stored: pb.StoredSpec) -> None:
        """From a work order: no need to ask for it later."""
        self.specs[stored.revision] = stored.spec

    def keep(self, revisions: Collection[int]) -> None:
        """Forgets all others: an application may go through thousands."""
        self.specs = {revision: spec for revision, spec in self.specs.items() if revision in revisions}
        self._asked.intersection_update(revisions)

    def want(self, revision: int) -> None:
        if revision not in self.specs and revision not in self._asked:
            self._asked.add(revision)
            self._wanted.put_nowait(revision)

    async def run(self) -> None:
        while True:
            revision = await self._wanted.get()
            while revision not in self.specs:
                try:
                    self.specs[revision] = await self._fetch(revision)
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY_S)
            self._on_change()

    async def _fetch(self, revision: int) -> pb.ApplicationSpec | None:
        kv = await self._client.get(keys.revision(self._app, revision))
        if kv is None:
            return None
        try:
            stored = decode(pb.StoredSpec, kv.value)
        except DataLoss as error:
            _LOG.error("revision is damaged", extra={"key": kv.key, "error": error.message})
            return None
        return stored.spec if stored.uid == self._uid else None
