"""What a broker's process is made of: its service, health, metrics, registration, and who follows the replicas."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker import told
from serving.broker.departures import Departures
from serving.broker.puller.run import PullEntry
from serving.broker.server import BrokerServer
from serving.errors import FailedPrecondition
from serving.observe import new_registry
from serving.python_deployment import settings as common
from serving.python_deployment.registration import Registration
from serving.python_deployment.side_servers import SideServers
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 1.0
_JOURNALS_S: Final = 0.1  # between two looks at which journals it serves


class BrokerParts:
    """In this order: `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`. Belongs to one loop."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str) -> None:
        """Raises `InvalidArgument` for a configuration that cannot be."""
        self._config = config
        self._registry = new_registry()
        self._broker = BrokerServer(told.broker_settings(config), self._registry)
        self._sides = SideServers(config, node_address, self._registry)
        self._registration = Registration(config, self._registry)
        self._store: EtcdClient | None = None
        self._departures: Departures | None = None
        self._telling: asyncio.Task[None] | None = None

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        report.in_flight = self._broker.in_flight
        report.load.CopyFrom(self._broker.load())
        self._registration.describe(report)

    def pull_entry(self) -> PullEntry | None:
        return None

    # ------------------------------------------------------------------------------------------------ coming up

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where. Raises `FailedPrecondition`."""
        port = await self._broker.start(self._sides.host, self._config.listen_port, self._sides.tls)
        return await self._sides.start(port)

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register and to follow the replicas; then the record changes with the report."""
        await self._put(report)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_journals(report), name="tell-journals")
        if self._departures is None and self._config.etcd.endpoints:
            self._store = EtcdClient(common.etcd_config(self._config.etcd))
            app = AppKey(self._config.namespace, self._config.application)
            self._departures = Departures(self._store, app, self._broker.endpoint_left, self._broker.endpoint_back)
            self._departures.start()

    async def _put(self, report: pb.ReplicaReport) -> None:
        journals, drained = self._broker.journals, self._broker.draining.on
        record = told.endpoint(self._config, report, socket.gethostname(), journals, drained=drained)
        await self._registration.put(record)

    async def _tell_journals(self, report: pb.ReplicaReport) -> None:
        """Until cancelled: clients and replicas find a journal, and who takes requests, by the record."""
        known = (self._broker.journals, self._broker.draining.on)
        while True:
            await asyncio.sleep(_JOURNALS_S)
            now = (self._broker.journals, self._broker.draining.on)
            if now != known:
                _LOG.info("registers anew", extra={"journals": list(now[0]), "drained": now[1]})
                known = now
                await self._put(report)

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("a broker is not changed in place: another one takes its journals over")

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. Journals that cannot be opened or written are in the metrics: the others go on."""
        while True:
            await asyncio.sleep(_LOOK_S)
            tell("")

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        if self._telling is not None:
            await cancel_and_wait(self._telling)
        return await self._registration.withdraw()

    def refuse(self) -> None:
        """From now on requests are answered that the broker drains."""
        self._broker.refuse()
        self._sides.health.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when nothing is being answered, False when something still is after `limit_s`."""
        try:
            await wait_for(self._broker.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def _forget_drain(self) -> None:
        """Whoever comes next is another broker, though it may have the same name."""
        if self._broker.draining.on:
            try:
                await self._broker.draining.set(False)
            except FailedPrecondition as error:
                _LOG.warning("what says that this broker is drained stays", extra={"error": error.message})

    async def close(self, left_s: Callable[[], float] = lambda: 0.0) -> None:  # noqa: ARG002
        """Lets go of the journals, for another broker to take over, and releases everything."""
        if self._telling is not None:
            await cancel_and_wait(self._telling)
        if self._departures is not None:
            await self._departures.close()
        await self._broker.close()
        await self._forget_drain()
        await self._sides.stop()
        await self._registration.close()
        if self._store is not None:
            await self._store.close()
