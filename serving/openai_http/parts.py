"""What replicas that speak HTTP are made of: server, health, metrics, registration; what they serve is a subclass's."""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp

from serving._proto import records_pb2 as pb
from serving.asgi import HttpServer
from serving.broker.puller.run import PullEntry
from serving.errors import FailedPrecondition
from serving.observe import new_registry
from serving.openai_http.counting import COUNTED, Counted
from serving.python_deployment.instruments import Statistics
from serving.python_deployment.registration import Registration
from serving.python_deployment.side_servers import SideServers
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 1.0
_STOP_S: Final = 1.0  # for answers on their way when the time is over


class HttpParts(ABC):
    """In this order: `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`. Belongs to one loop."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str) -> None:
        self._config = config
        self._draining = False
        self._registry = new_registry()
        self._counted: Counted | None = None
        self._server: HttpServer | None = None
        self._sides = SideServers(config, node_address, self._registry)
        self._registration = Registration(config, self._registry)

    # ------------------------------------------------------------------------------------------------ a subclass's

    @abstractmethod
    def _statistics(self) -> Statistics:
        """Of its calls. From any thread."""

    @abstractmethod
    def _endpoint(self, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
        """The record of the ready replica."""

    @abstractmethod
    def _failure(self) -> str:
        """Why it is unhealthy; empty: it is well."""

    @abstractmethod
    async def _release(self) -> None:
        """Ends what still runs. The server goes on until that is done, so that answers reach their clients."""

    # ------------------------------------------------------------------------------------------------ coming up

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        counted = self._counted
        if counted is not None:
            report.in_flight = max(0, counted.in_flight - counted.batch)  # read in two steps, from another thread
            report.load.CopyFrom(self._statistics().load())
        self._registration.describe(report)

    async def _serve(self, application: ASGIApp, *, counted: tuple[str, ...] = COUNTED) -> pb.ReplicaReport:
        """Listens; the part of the report that says where. Requests below the paths `counted` are its work.

        Raises `FailedPrecondition`.
        """
        self._counted = Counted(application, counted)
        self._server = HttpServer(self._counted)
        port = await self._server.start(self._sides.host, self._config.listen_port, self._sides.tls)
        return await self._sides.start(port)

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register, then the record changes with the report."""
        await self._registration.put(self._endpoint(report, socket.gethostname()))

    def pull_entry(self) -> PullEntry | None:
        """How it runs what it pulls from brokers; None: it pulls nothing."""
        return None

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("this kind of deployment is not changed in place: another revision replaces it")

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the replica is unhealthy; empty: it is well."""
        told = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            reason = self._failure()
            if self._server is not None and not self._server.serving:
                reason = "the HTTP server has ended"
            if reason and reason != told:
                _LOG.error("the replica is not well", extra={"reason": reason})
            told = reason
            self._sides.health.set_serving(not reason)
            tell(reason)

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        return await self._registration.withdraw()

    def refuse(self) -> None:
        """From now on requests are answered that the replica drains."""
        self._draining = True
        self._sides.health.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when nothing runs, False when something still does after `limit_s`."""
        if self._counted is None:
            return True
        try:
            await wait_for(self._counted.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Ends what still runs and releases everything; answers may be on their way for `left_s`."""
        if self._counted is not None and self._counted.in_flight:
            _LOG.warning("requests are cut off", extra={"in_flight": self._counted.in_flight})
        await self._release()
        if self._server is not None:
            await self._server.stop(max(_STOP_S, left_s()))
        await self._sides.stop()
        await self._registration.close()
