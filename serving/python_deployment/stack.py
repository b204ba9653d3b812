"""What a Python replica is made of: user code, server, metrics, registration. Belongs to the loop that serves."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.puller.kserve import KServeRunner
from serving.broker.puller.run import EntryRunner, PullEntry
from serving.errors import FailedPrecondition, MeshError
from serving.observe import MetricsServer, new_registry
from serving.python_deployment import settings
from serving.python_deployment.composition import Composition
from serving.python_deployment.failure import described
from serving.python_deployment.inference import Inference
from serving.python_deployment.instruments import Instruments
from serving.python_deployment.registration import Registration
from serving.python_deployment.server import GrpcServer
from serving.python_deployment.user_code import UserCode, construct
from serving.python_deployment.user_loop import UserLoop
from serving.store.keys import AppKey
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_STOP_S: Final = 1.0  # for answers on their way when the time is over
_SLICE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class HealthLimits:
    interval_s: float = 1.0
    timeout_s: float = 5.0
    failures: int = 3  # in a row, until the replica counts as unhealthy


class Stack:
    """In this order: `load`, `reconfigure`, `wait_healthy`, `listen`, `register`; `withdraw`, `refuse`, `close`."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str, *, limits: HealthLimits | None = None) -> None:
        self._config = config
        self._node_address = node_address
        self._limits = limits or HealthLimits()
        self._metrics_registry = new_registry()
        self._instruments = Instruments(self._metrics_registry, max_requests=config.python.max_requests)
        self._user_loop = UserLoop(threads=config.python.threads)
        self._composition = Composition(
            AppKey(config.namespace, config.application),
            settings.etcd_config(config.etcd),
            settings.serving_tls(config),
        )
        self._user: UserCode | None = None
        self._inference: Inference | None = None
        self._server: GrpcServer | None = None
        self._metrics: MetricsServer | None = None
        self._registration = Registration(config, self._metrics_registry)

    @property
    def user(self) -> UserCode:
        if self._user is None:
            raise FailedPrecondition("the class is not loaded yet")
        return self._user

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        report.in_flight = self._instruments.in_flight
        report.load.CopyFrom(self._instruments.statistics.load())
        self._registration.describe(report)

    # ------------------------------------------------------------------------------------------------ coming up

    async def load(self) -> None:
        """Raises `FailedPrecondition` with what is wrong with the class."""
        python = self._config.python
        arguments = settings.read_object(python.args, "python.args")
        model = python.model or self._config.deployment
        self._user_loop.start()
        loading = self._user_loop.run(
            lambda: construct(python.entry, arguments, self._user_loop, model, self._composition)
        )
        self._user = await loading.result()
        self._inference = Inference(self._user, self._user_loop, self._instruments)

    async def reconfigure(self, text: str) -> None:
        """Raises `FailedPrecondition` with what `reconfigure` raised."""
        config = settings.read_object(text, "python.config")
        user = self.user
        try:
            await self._user_loop.run(lambda: user.reconfigure(config)).result()
        except MeshError:
            raise
        except Exception as error:
            _LOG.warning("reconfigure failed", exc_info=error)
            raise FailedPrecondition(f"reconfigure failed: {described(error)}") from error

    async def wait_healthy(self) -> None:
        """Returns when `health` is well for the first time; the master ends a replica for which that takes too long."""
        if not self.user.has_health:
            return
        while reason := await self._look():
            _LOG.warning("not healthy yet", extra={"reason": reason})
            await asyncio.sleep(self._limits.interval_s)

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where, and what. Raises `FailedPrecondition`."""
        config = self._config
        host = settings.listen_host(config)
        advertised = settings.advertised_host(config, self._node_address)
        assert self._inference is not None
        self._server = GrpcServer(self._inference, max_message_bytes=config.python.max_message_bytes)
        port = await self._server.start(host, config.listen_port, settings.serving_tls(config))
        self._metrics = MetricsServer(self._metrics_registry, host=host)
        metrics_address = await self._metrics.start()
        report = pb.ReplicaReport(address=settings.joined(advertised, port))
        report.metrics_address = settings.joined(advertised, int(metrics_address.rpartition(":")[2]))
        signature = self.user.signature
        report.models.add(name=signature.model, version=signature.version, state="READY")
        return report

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register, then the record changes with the report."""
        signature = self.user.signature
        model = pb.ModelRecord(name=signature.model, versions=[signature.version])
        await self._registration.put(settings.endpoint(self._config, report, model, socket.gethostname()))

    def pull_entry(self) -> PullEntry | None:
        assert self._inference is not None
        return PullEntry(EntryRunner(infer=KServeRunner(self._inference)), self._metrics_registry)

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the replica is unhealthy; empty: it is well."""
        failures = 0
        while True:
            await asyncio.sleep(self._limits.interval_s)
            reason = await self._look()
            failures = failures + 1 if reason else 0
            unhealthy = failures >= self._limits.failures
            if reason:
                _LOG.warning("health check failed", extra={"reason": reason, "failures": failures})
            if self._server is not None:
                self._server.set_serving(not unhealthy)
            tell(f"health() keeps failing: {reason}" if unhealthy else "")

    async def _look(self) -> str:
        """Why it is not well; empty when it is."""
        user = self.user
        if not self._user_loop.alive:
            return "the thread of the user's code has ended"
        if not user.has_health:
            return ""
        try:
            await wait_for(user.health(), self._limits.timeout_s)
        except asyncio.TimeoutError:
            return f"no answer within {self._limits.timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it raises means that it is not well
            return error.message if isinstance(error, MeshError) else described(error)
        return ""

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        return await self._registration.withdraw()

    def refuse(self) -> None:
        """From now on requests are answered that the replica drains."""
        if self._inference is not None:
            self._inference.draining.set()
        if self._server is not None:
            self._server.health.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when nothing runs, False when something still does after `limit_s`."""
        if self._inference is None or self._instruments.in_flight == 0:
            return True
        try:
            await wait_for(self._inference.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Ends what still runs and releases everything; answers may be on their way for `left_s`, which may shrink."""
        if self._inference is not None and self._instruments.in_flight:
            _LOG.warning("requests are cut off", extra={"in_flight": self._instruments.in_flight})
            self._inference.cancel_all()
        if self._server is not None:
            await self._end_answers(self._server, left_s)
        await self._composition.close()
        await self._registration.close()
        if self._metrics is not None:
            await self._metrics.close()
        self._user_loop.stop()

    @staticmethod
    async def _end_answers(server: GrpcServer, left_s: Callable[[], float]) -> None:
        """A place is given back when the work has ended; a client that reads slowly has not got its answer then."""
        stopping = asyncio.ensure_future(server.stop(max(_STOP_S, left_s())))
        while left_s() > 0 and not stopping.done():  # in slices: a second drain may shorten it
            await asyncio.wait({stopping}, timeout=_SLICE_S)
        await server.stop(_STOP_S)
        await stopping
