"""What a runner's process is made of: the taking of batches, health, metrics, registration."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from serving._proto import records_pb2 as pb
from serving.batch.runner import settings
from serving.batch.runner.instruments import RunnerInstruments
from serving.batch.runner.making import JobMaker
from serving.batch.runner.models import Models
from serving.batch.runner.taking import Identity, Runner
from serving.broker.puller.run import PullEntry
from serving.errors import FailedPrecondition
from serving.observe import new_registry
from serving.python_deployment import settings as common
from serving.python_deployment.registration import Registration
from serving.python_deployment.side_servers import SideServers
from serving.store.client import EtcdClient
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 1.0


class RunnerParts:
    """In this order: `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`. Belongs to one loop."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str) -> None:
        """Raises `FailedPrecondition` without a store: there is nothing that it could take."""
        if not config.etcd.endpoints:
            raise FailedPrecondition("no etcd endpoint is configured: a runner finds its batches there")
        self._config = config
        self._registry = new_registry()
        self._sides = SideServers(config, node_address, self._registry)
        self._registration = Registration(config, self._registry)
        self._store = EtcdClient(common.etcd_config(config.etcd))
        self._models = Models(self._store)
        self._runner = Runner(
            self._store,
            Identity(
                config.id,
                config.cluster,
                settings.namespaces(config),
                settings.concurrency(config),
                config.lease_ttl_s or common.DEFAULT_LEASE_S,
                config.batch.batch_id,
                settings.max_attempts(config),
            ),
            JobMaker(config, self._store).make,
            self._models.find,
            RunnerInstruments(self._registry),
        )
        self._taking = False

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        report.in_flight = self._runner.in_flight
        self._registration.describe(report)

    def pull_entry(self) -> PullEntry | None:
        return None

    # ------------------------------------------------------------------------------------------------ coming up

    async def listen(self) -> pb.ReplicaReport:
        """Health and metrics; the part of the report that says where. Raises `FailedPrecondition`."""
        return await self._sides.start()

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register and to take batches; then the record changes with the report."""
        await self._registration.put(settings.endpoint(self._config, report, socket.gethostname()))
        if not self._taking:
            self._taking = True
            await self._models.start()
            await self._runner.start()

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("a runner is not changed in place: another one goes on with its batches")

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the runner is unhealthy; empty: it is well."""
        told = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            reason = self._runner.failure()
            if reason and reason != told:
                _LOG.error("the runner is not well", extra={"reason": reason})
            told = reason
            self._sides.health.set_serving(not reason)
            tell(reason)

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; nobody is on the way to a runner."""
        await self._registration.withdraw()
        return False

    def refuse(self) -> None:
        """From now on batches are put back, for other runners to go on with."""
        self._runner.refuse()
        self._sides.health.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when no batch is worked on, False when one still is after `limit_s`."""
        try:
            await wait_for(self._runner.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self, left_s: Callable[[], float] = lambda: 0.0) -> None:  # noqa: ARG002
        """Cuts off what still runs, and releases everything."""
        await self._runner.close()
        await self._models.close()
        await self._sides.stop()
        await self._registration.close()
        await self._store.close()
