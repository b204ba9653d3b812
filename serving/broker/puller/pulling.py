"""A replica's pulling from its readiness to its drain: the puller, and the discovery that it follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import grpc

from serving._proto import records_pb2 as pb
from serving.broker.puller.puller import Puller
from serving.broker.puller.run import PullEntry
from serving.discovery.client_tls import channel_credentials
from serving.discovery.resolver import Resolver
from serving.errors import MeshError, StoreUnavailable
from serving.python_deployment import settings
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait, wait_for
from serving.types import ROLE_BROKER

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0
_LAST_WORDS_S: Final = 2.0  # for what goes back when the time is over


class Pulling:
    """Belongs to the loop that serves. Nothing raises: a replica serves also where it cannot pull."""

    def __init__(self, config: pb.ReplicaConfig, entry: PullEntry) -> None:
        self._config = config
        self._entry = entry
        self._puller: Puller | None = None
        self._store: EtcdClient | None = None
        self._resolver: Resolver | None = None
        self._following: asyncio.Task[None] | None = None
        self._well = True
        self._drained = False

    def start(self) -> None:
        """Returns at once. Without etcd there are no brokers."""
        if self._config.etcd.endpoints:
            self._following = asyncio.create_task(self._follow(), name="follow-brokers")

    def set_well(self, well: bool) -> None:
        """A replica that is not gets nothing more."""
        self._well = well
        if self._puller is not None:
            self._puller.set_open(well)

    def drain(self) -> None:
        """From now on nothing more is asked for; what runs goes on. May be repeated."""
        self._drained = True
        if self._puller is not None:
            self._puller.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when nothing runs and every outcome is stored, False when that is not so after `limit_s`."""
        if self._puller is None:
            return True
        try:
            await wait_for(self._puller.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """What still runs is ended, and goes back to its broker."""
        puller = self._puller
        if puller is not None:
            await puller.stop_running()
            await self.wait_idle(_LAST_WORDS_S)
        if self._following is not None:
            await cancel_and_wait(self._following)
        if puller is not None:
            await puller.close()
        if self._resolver is not None:
            await self._resolver.close()
        if self._store is not None:
            await self._store.close()

    async def _follow(self) -> None:
        config = self._config
        try:
            puller = Puller(config, self._entry, await self._credentials())
            self._store = EtcdClient(settings.etcd_config(config.etcd))
            self._resolver = Resolver(self._store, AppKey(config.namespace, config.application), role=ROLE_BROKER)
            self._puller = puller
            if self._drained:
                puller.drain()
            puller.set_open(self._well)
            with contextlib.suppress(StoreUnavailable):  # it goes on following, and the view comes with etcd
                await self._resolver.start(wait_s=_FIRST_VIEW_S)
            async for view in self._resolver.subscribe():
                puller.apply(view.endpoints)
        except MeshError as error:
            _LOG.error("the replica cannot ask brokers for work", extra={"error": error.message})

    async def _credentials(self) -> grpc.ChannelCredentials | None:
        """What replicas present to each other. Raises `InvalidArgument`."""
        tls = settings.serving_tls(self._config)
        return None if tls is None else await asyncio.to_thread(channel_credentials, tls)
