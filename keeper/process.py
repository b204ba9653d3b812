"""One keeper, from its configuration to its end: the order in which its parts start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid

from keeper.api_keys import ApiKeys
from keeper.applications import Applications
from keeper.changes import Note
from keeper.config import KeeperConfig
from keeper.events import Events
from keeper.mirror import Mirror
from keeper.own_reconciler import OwnBatchReconciler
from keeper.page import KeeperCollector, Page
from keeper.reconciler import Reconciler
from keeper.restorer import Restorer
from keeper.routes import Routes
from keeper.routes_service import RoutesService
from keeper.server import Server
from keeper.service import KeeperService
from keeper.watchers import Watchers
from serving._proto import records_pb2 as pb
from serving.control import Clock, SystemClock
from serving.errors import StoreUnavailable
from serving.store import Election, EtcdClient, Leadership, keys
from serving.store.records import encode
from serving.timeouts import cancel_and_wait, wait_for
from serving.version import VERSION

_log = logging.getLogger("keeper")
CAMPAIGN_RETRY_S = 0.5
RESIGN_LIMIT_S = 2.0


class Keeper:
    """`start`, then `run` until cancelled, then `stop`. etcd may be away at any time, also at the start."""

    def __init__(self, config: KeeperConfig, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._clock = clock
        self.id = config.id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.events = Events(clock.now)
        self._client = EtcdClient(config.etcd)
        self.mirror = Mirror(self._client, config, clock, self.events)
        self._reconciler = Reconciler(self._client, self.mirror, config, clock, self.events)
        self._own = OwnBatchReconciler(self._client, self.mirror, self._reconciler.world, config, clock, self.events)
        self._restorer = Restorer(self._client, self.mirror, clock, self.events, self.id)
        applications = Applications(self._client, self.mirror, self._reconciler.world, clock)
        watchers = Watchers(self.mirror, lambda: self._reconciler.world().liveness_by_name(), config.max_watchers)
        self._keys = ApiKeys(self._client, clock)
        self._routes = Routes(self._client, clock)
        service = KeeperService(applications, watchers, self.mirror, clock, self._keys)
        self._server = Server(config, service, RoutesService(self._routes))
        self._page: Page | None = None
        self._election: Election | None = None
        self.leads = False

    @property
    def address(self) -> str:
        """`host:port` of the service, once started."""
        return self._server.address

    @property
    def metrics_address(self) -> str:
        """`host:port` of the page, "" without one."""
        return self._page.address if self._page else ""

    async def start(self) -> None:
        """Listens. Raises what a wrong configuration or a taken port is worth."""
        await self._server.start()
        if self._config.metrics_listen:
            collector = KeeperCollector(self.mirror, self.events, lambda: self.leads, self._clock.now, self._own.counts)
            page = Page(self._config.metrics_listen, collector, self.events)
            await page.start()
            self._page = page
        _log.info("keeper listens", extra={"keeper": self.id, "address": self.address, "metrics": self.metrics_address})

    async def run(self) -> None:
        """Follows the store, restores, stands for election and leads, until cancelled or one of them fails for good."""
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("mirror", self.mirror.run()),
                ("clock", self.mirror.run_clock()),
                ("verifier", self.mirror.run_verifier()),
                ("restorer", self._restorer.run()),
                ("own-batches", self._own.run()),
                ("routes", self._routes.run()),
                ("election", self._stand()),
                ("keys", self._keys.run()),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_and_wait(*tasks)

    async def stop(self) -> None:
        """Leaves discovery, stops taking calls, finishes running ones, then ends. To be called after `run` ended."""
        await self._resign()
        await self._server.stop(self._config.stop_grace_s)
        if self._page is not None:
            await self._page.stop()
        await self._client.close()

    async def _stand(self) -> None:
        record = pb.KeeperRecord(id=self.id, address=self.address, version=VERSION)
        while True:
            self._election = Election(
                self._client,
                self._config.etcd,
                keys.KEEPER_ELECTION,
                encode(record),
                ttl_s=self._config.election_ttl_s,
            )
            try:
                leadership = await self._election.campaign()
            except StoreUnavailable as error:
                _log.warning("cannot stand for election", extra={"error": error.message})
                await self._resign()
                await self._clock.sleep(CAMPAIGN_RETRY_S)
                continue
            await self.mirror.synced.wait()
            self.leads = True
            self.events.add(Note("leads", f"keeper {self.id} leads"))
            try:
                await self._lead(leadership)
            finally:
                self.leads = False
                self.events.add(Note("follows", f"keeper {self.id} no longer leads"))
            await self._resign()

    async def _lead(self, leadership: Leadership) -> None:
        parts = [
            asyncio.create_task(self._reconciler.lead(leadership), name="lead"),
            asyncio.create_task(self._own.lead(leadership), name="lead-own-batches"),
        ]
        try:  # when the leadership is lost, each ends by itself
            await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await cancel_and_wait(*parts)
        failed = [part.exception() for part in parts if part.done() and not part.cancelled()]
        for error in failed:  # a cancelled part only followed the one that failed
            if error is not None:
                raise error

    async def _resign(self) -> None:
        """Gives the key in the election back; where the store is away, the lease's end does it."""
        election, self._election = self._election, None
        if election is None:
            return
        try:
            await wait_for(election.resign(), RESIGN_LIMIT_S)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            _log.info("the election key ends with its lease", extra={"error": str(error)})
