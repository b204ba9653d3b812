"""What a Serve replica is made of: its driver, its health service, its records. Belongs to the loop that serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.puller.run import PullEntry
from serving.discovery import Registrar
from serving.errors import FailedPrecondition
from serving.python_deployment import settings
from serving.python_deployment.health_server import HealthServer
from serving.serve_deployment import workspace
from serving.serve_deployment.driver_process import DriverProcess
from serving.serve_deployment.orders import Order
from serving.serve_deployment.settings import address_of, driver_log, endpoint
from serving.serve_deployment.verdict import EntryPoint, Judge, Verdict
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 0.5  # time alone may change a verdict


class ServeParts:
    """In this order: `start`, `wait_ready`, `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`."""

    def __init__(self, config: pb.ReplicaConfig, order: Order, folder: Path | None) -> None:
        self._config = config
        self._order = order
        self._folder = folder
        self._driver = DriverProcess(order, driver_log(config))
        self._judge = Judge()
        self._server = HealthServer()
        self._registrars: dict[str, Registrar] = {}
        self._registered: tuple[EntryPoint, ...] = ()

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        registrars = list(self._registrars.values())
        report.registered = bool(registrars) and all(one.registered for one in registrars)
        report.lease = registrars[0].lease if registrars else 0
        report.address = self._address() or report.address

    # ------------------------------------------------------------------------------------------------ coming up

    async def start(self) -> None:
        await self._driver.start()

    async def wait_ready(self, tell: Callable[[str], None]) -> None:
        """Until Ray Serve runs the application. `tell` hears what it waits for. Raises `FailedPrecondition`."""
        while True:
            verdict = await self._verdict()
            if verdict.state == "ready":
                return
            if verdict.state == "failed":
                raise FailedPrecondition(verdict.reason)
            tell(verdict.reason)

    async def listen(self) -> pb.ReplicaReport:
        """Serves health checks; the part of the report that says where, and where the application is asked."""
        config = self._config
        host = settings.listen_host(config)
        port = await self._server.start(host, settings.serving_tls(config))
        advertised = settings.advertised_host(config, settings.joined(host, port).rpartition(":")[0])
        return pb.ReplicaReport(health_address=settings.joined(advertised, port), address=self._address())

    async def register(self, _report: pb.ReplicaReport) -> None:
        """Each entry point that there is, as a record under its own lease."""
        config = self._config
        if not config.etcd.endpoints:
            _LOG.warning("no etcd endpoint is configured: the replica is not in discovery")
            return
        points = self._points()
        for point in points:
            record = endpoint(config, self._order, point, socket.gethostname())
            if point.protocol in self._registrars:
                await self._registrars[point.protocol].update(record)
                continue
            ttl_s = config.lease_ttl_s or settings.DEFAULT_LEASE_S
            registrar = Registrar(settings.etcd_config(config.etcd), record, ttl_s=ttl_s)
            self._registrars[point.protocol] = registrar
            await registrar.start()
        self._registered = points

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("an application of Ray Serve is not changed in place: another revision replaces it")

    # ------------------------------------------------------------------------------------------------ health

    def pull_entry(self) -> PullEntry | None:
        return None

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the replica is unhealthy; empty: it is well."""
        while True:
            verdict = await self._verdict()
            bad = verdict.state != "ready"
            if bad:
                _LOG.warning("the application is not well", extra={"reason": verdict.reason})
            self._server.health.set_serving(not bad)
            tell(verdict.reason if bad else "")
            points = self._points()
            if points and points != self._registered:  # a proxy of Serve is gone, or is there again
                _LOG.info("other entry points", extra={"address": address_of(self._config, points[0])})
                await self.register(pb.ReplicaReport())

    async def _verdict(self) -> Verdict:
        """With the next news from the driver, or after a while."""
        driver = self._driver
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(driver.changed.wait(), _LOOK_S)
        driver.changed.clear()
        if driver.failed:
            await asyncio.sleep(_LOOK_S)
            return Verdict("failed", driver.failed)
        if driver.sight is None:
            return Verdict("loading", "joins Ray Serve")
        return self._judge.look(driver.sight, time.monotonic())

    def _points(self) -> tuple[EntryPoint, ...]:
        return self._driver.sight.entry_points if self._driver.sight is not None else ()

    def _address(self) -> str:
        points = self._points()
        return address_of(self._config, points[0]) if points else ""

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        listed = any(one.registered for one in self._registrars.values())
        await asyncio.gather(*(one.withdraw() for one in self._registrars.values()))
        return listed

    def refuse(self) -> None:
        """Serve takes no new requests for it from now on, and finishes those that run."""
        self._server.health.drain()
        self._driver.delete()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when Serve has ended it."""
        if not self._driver.gone:
            try:
                await wait_for(self._driver.changed.wait(), limit_s)
            except asyncio.TimeoutError:
                return False
            self._driver.changed.clear()
        return self._driver.gone

    async def close(self, left_s: Callable[[], float]) -> None:
        """What Serve still has to end it ends by itself."""
        if not self._driver.gone:
            _LOG.warning("Ray Serve has not ended the application yet", extra={"left_s": left_s()})
        await self._driver.close()
        for registrar in self._registrars.values():
            await registrar.close()
        await self._server.stop()
        if self._folder is not None:
            await asyncio.to_thread(workspace.remove, self._folder, self._config)
