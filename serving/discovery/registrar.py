"""Keeps one endpoint's record in the store for as long as the endpoint lives. Its C++ twin is cpp_ext/registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import aclosing
from typing import Final

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.control import Backoff
from serving.discovery.view import check_endpoint
from serving.errors import Conflict, DataLoss, FailedPrecondition, InvalidArgument, MeshError, StoreUnavailable
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.lease import Lease
from serving.store.records import decode, encode
from serving.store.types import Changes, KeyValue, OutcomeUnknown, Resync
from serving.store.waiting import wait_first
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
# Short: when etcd comes back, the record of the old lease lives for its ttl, and the new one must stand before its end.
_BACKOFF: Final = Backoff(first_s=0.1, limit_s=1.0, jitter=0.5)
_CONTESTED_BACKOFF: Final = Backoff(first_s=0.5, limit_s=30.0, jitter=0.5)


class Registrar:
    """Registers an endpoint under a lease of its own, and again after any loss, for ever. Belongs to one event loop.

    It never fails because of etcd. It yields in one case only: its key holds a record of a newer generation, whose
    process is then the endpoint (`fenced`).
    """

    def __init__(self, config: EtcdConfig, endpoint: pb.Endpoint, *, ttl_s: int = 5) -> None:
        """Raises `InvalidArgument` when the endpoint cannot be registered as it is."""
        self._config = config
        self._ttl_s = ttl_s
        self._app = AppKey(endpoint.namespace, endpoint.application)
        self.key = keys.endpoint(self._app, endpoint.role, endpoint.deployment, endpoint.id)
        self._endpoint = self._checked(endpoint)
        self._client = EtcdClient(config)
        self._task: asyncio.Task[None] | None = None
        self._leaves = False
        self._lease: Lease | None = None
        self._look = asyncio.Event()  # the wanted record or the stored one may have changed
        self._registered = asyncio.Event()
        self.fenced = False

    def _checked(self, endpoint: pb.Endpoint) -> pb.Endpoint:
        copy = pb.Endpoint()
        copy.CopyFrom(endpoint)
        try:
            check_endpoint(copy, self._app, self.key)
        except DataLoss as error:
            raise InvalidArgument(f"this endpoint cannot be registered: {error.message}") from error
        return copy

    @property
    def registered(self) -> bool:
        """True while the record stands in the store as wanted, as far as is known."""
        return self._registered.is_set() and self._lease is not None and self._lease.held()

    @property
    def lease(self) -> int:
        """The lease that carries the record; 0 when there is none."""
        return self._lease.id if self._lease is not None else 0

    async def start(self) -> None:
        """Begins to register; returns at once, because an endpoint serves whether etcd answers or not."""
        if self._task is not None:
            raise FailedPrecondition(f"the registrar of {self.key} was started already")
        self._task = asyncio.create_task(self._run(), name=f"registrar {self.key}")

    async def update(self, endpoint: pb.Endpoint) -> None:
        """From now on this is the record, e.g. with the state `draining`. Returns before it is written.

        Raises `InvalidArgument` when it belongs under another key.
        """
        self._endpoint = self._checked(endpoint)
        self._registered.clear()
        self._look.set()

    async def wait_registered(self, timeout_s: float) -> None:
        """Returns when the wanted record stands in the store. Raises `StoreUnavailable` when it does not by then."""
        try:
            await wait_for(self._registered.wait(), timeout_s)
        except asyncio.TimeoutError:
            raise StoreUnavailable(f"{self.key} was not registered within {timeout_s:g} s") from None

    async def withdraw(self) -> None:
        """Leaves discovery: the record is gone when this returns, or runs out with its lease when etcd does not answer.

        Nothing is registered afterwards. May be repeated.
        """
        task = self._task
        if task is None:
            return
        if not self._leaves:  # once: it would be torn out of giving its lease back
            self._leaves = True
            task.cancel()
        await asyncio.wait({task})  # also where it is asked for again, after the first one was left
        self._task, self._leaves = None, False
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("registrar had ended with a fault", exc_info=error, extra={"store_key": self.key})

    async def close(self) -> None:
        """`withdraw`, and ends the connections. May be repeated."""
        await self.withdraw()
        await self._client.close()

    # ----------------------------------------------------------------------------------------------- in the background

    async def _run(self) -> None:
        watching = asyncio.create_task(self._watch(), name=f"registrar watch {self.key}")
        try:
            failures = 0
            while not self.fenced:
                try:
                    await self._hold_one_lease()
                    failures = 0
                except MeshError as error:
                    failures += 1
                    _LOG.warning("endpoint not registered", extra={"store_key": self.key, "error": error.message})
                    await asyncio.sleep(_BACKOFF.delay_s(failures))
        finally:
            await cancel_and_wait(watching)

    async def _hold_one_lease(self) -> None:
        """Takes a lease and keeps the record under it; returns when it is lost. Raises `MeshError`."""
        lease = Lease(self._config, ttl_s=self._ttl_s)
        try:
            await lease.start()
            self._lease = lease
            await wait_first(lease.lost.wait(), self._keep_record(lease))
        finally:
            self._registered.clear()
            self._lease = None
            await lease.revoke()

    async def _keep_record(self, lease: Lease) -> None:
        """Writes the record, and again whenever it is not what is wanted. Returns only when it yields."""
        contested = 0
        while True:
            self._look.clear()
            wanted = self._endpoint
            found = await self._client.get(self.key)
            if found is None or found.value != encode(wanted) or found.lease != lease.id:
                if found is not None and self._yields_to(found, wanted):
                    return
                contested += found is not None and found.lease != lease.id and self._registered.is_set()
                try:
                    revision = found.mod_revision if found is not None else 0
                    await self._client.put_if(self.key, encode(wanted), mod_revision=revision, lease=lease.id)
                except (Conflict, OutcomeUnknown):  # somebody else writes this key: look who it is
                    await asyncio.sleep(_BACKOFF.delay_s(1))
                    continue
                _LOG.info("endpoint registered", extra={"store_key": self.key, "lease": f"{lease.id:x}"})
            if wanted is self._endpoint:
                self._registered.set()
            await self._look.wait()
            if contested:  # two living processes take each other for dead: do not wear the store out
                await asyncio.sleep(_CONTESTED_BACKOFF.delay_s(contested))

    def _yields_to(self, found: KeyValue, wanted: pb.Endpoint) -> bool:
        with contextlib.suppress(DataLoss):
            other = decode(pb.Endpoint, found.value)
            if other.generation > wanted.generation:
                _LOG.error(
                    "endpoint yields to a newer generation",
                    extra={"store_key": self.key, "generation": wanted.generation, "newer": other.generation},
                )
                self.fenced = True
        return self.fenced

    async def _watch(self) -> None:
        """Has the record looked at when it is not the wanted one: removed, overwritten, or lost with its store."""
        while True:
            try:
                async with aclosing(self._client.watch(self.key)) as events:
                    async for event in events:
                        if isinstance(event, Resync):
                            self._compare({kv.key: kv for kv in event.snapshot.kvs}.get(self.key))
                        elif isinstance(event, Changes):
                            for kv in event.puts:
                                if kv.key == self.key:
                                    self._compare(kv)
                            if self.key in event.deletes:
                                self._compare(None)
            except MeshError as error:
                _LOG.warning("endpoint record cannot be watched", extra={"store_key": self.key, "error": error.message})
                await asyncio.sleep(_BACKOFF.limit_s)

    def _compare(self, kv: KeyValue | None) -> None:
        if kv is None or kv.lease != self.lease or kv.value != encode(self._endpoint):
            self._look.set()
