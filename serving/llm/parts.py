"""What a replica of a language model is made of: engine, OpenAI server, health, metrics, registration."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.asgi import HttpServer
from serving.errors import FailedPrecondition, MeshError
from serving.llm import settings
from serving.llm.app import build_app
from serving.llm.engine import Engine, GenerationRequest, Sampling
from serving.llm.engines import make_engine
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import DEFAULT_REQUESTS, DEFAULT_WAIT_S, DEFAULT_WAITING_TOKENS, Limits
from serving.observe import MetricsServer, new_registry
from serving.openai_http.counting import Counted
from serving.python_deployment import settings as common
from serving.python_deployment.health_server import HealthServer
from serving.python_deployment.registration import Registration
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 1.0
_STOP_S: Final = 1.0  # for answers on their way when the time is over
_WARM_UP: Final = "Hello"
_WARM_UP_TOKENS: Final = 2


class LlmParts:
    """In this order: `load`, `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`. Belongs to one loop."""

    def __init__(self, config: pb.ReplicaConfig, folder: Path, node_address: str) -> None:
        self._config = config
        self._folder = folder
        self._node_address = node_address
        self._draining = False
        self._registry = new_registry()
        self._instruments = LlmInstruments(self._registry)
        self._engine: Engine | None = None
        self._counted: Counted | None = None
        self._server: HttpServer | None = None
        self._health = HealthServer()
        self._metrics: MetricsServer | None = None
        self._registration = Registration(config, self._registry)

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        counted = self._counted
        if counted is not None:
            report.in_flight = counted.in_flight
            report.load.CopyFrom(self._instruments.statistics.load())
        self._registration.describe(report)

    # ------------------------------------------------------------------------------------------------ coming up

    async def load(self, tell: Callable[[str], None]) -> None:
        """Starts the engine and has it answer once. `tell` hears what it does.

        Raises `FailedPrecondition`, `InvalidArgument` for options that are wrong, `NotSupported` for the engine.
        """
        _LOG.info("loading", extra={"engine": self._config.llm.engine or settings.DEFAULT_ENGINE})
        llm = self._config.llm
        options = common.read_object(llm.options, "llm.options")
        engine = self._engine = make_engine(llm.engine or settings.DEFAULT_ENGINE, self._folder, options)
        await engine.start(lambda what: self._told(what, tell))
        tell("answers a first request")
        await _warm_up(engine)

    @staticmethod
    def _told(what: str, tell: Callable[[str], None]) -> None:
        _LOG.info("engine", extra={"does": what})
        tell(what)

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where, and what. Raises `FailedPrecondition`."""
        config, engine = self._config, self._engine
        assert engine is not None
        host = common.listen_host(config)
        advertised = common.advertised_host(config, self._node_address)
        tls = common.serving_tls(config)
        name = settings.model_name(config)
        limits = Limits(
            max_requests=config.llm.max_requests or DEFAULT_REQUESTS,
            max_waiting_tokens=config.llm.max_waiting_tokens or DEFAULT_WAITING_TOKENS,
            max_wait_s=config.llm.max_wait_s or DEFAULT_WAIT_S,
        )
        application = build_app(
            engine,
            name,
            limits,
            revision=str(config.revision),
            replica=config.id,
            registry=self._registry,
            draining=lambda: self._draining,
            instruments=self._instruments,
        )
        self._counted = Counted(application)
        self._server = HttpServer(self._counted)
        port = await self._server.start(host, config.listen_port, tls)
        health_port = await self._health.start(host, tls)
        self._metrics = MetricsServer(self._registry, host=host)
        metrics_address = await self._metrics.start()
        report = pb.ReplicaReport(
            address=common.joined(advertised, port), health_address=common.joined(advertised, health_port)
        )
        report.metrics_address = common.joined(advertised, int(metrics_address.rpartition(":")[2]))
        report.models.add(name=name, version=str(config.revision), state="READY")
        return report

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register, then the record changes with the report."""
        assert self._engine is not None
        record = settings.endpoint(self._config, report, socket.gethostname(), self._engine.capabilities)
        await self._registration.put(record)

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("a language model is not changed in place: another revision replaces it")

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the replica is unhealthy; empty: it is well."""
        engine = self._engine
        assert engine is not None
        told = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            reason = f"the engine has failed: {engine.failure}" if engine.failure else ""
            if self._server is not None and not self._server.serving:
                reason = "the HTTP server has ended"
            if reason and reason != told:
                _LOG.error("the replica is not well", extra={"reason": reason})
            told = reason
            self._health.health.set_serving(not reason)
            tell(reason)

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        return await self._registration.withdraw()

    def refuse(self) -> None:
        """From now on requests are answered that the replica drains."""
        self._draining = True
        self._health.health.drain()

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
            _LOG.warning("generations are cut off", extra={"in_flight": self._counted.in_flight})
        if self._engine is not None:
            await self._engine.close()
        if self._server is not None:
            await self._server.stop(max(_STOP_S, left_s()))
        await self._health.stop()
        await self._registration.close()
        if self._metrics is not None:
            await self._metrics.close()


async def _warm_up(engine: Engine) -> None:
    """One short answer, before which the replica is not ready. Raises `FailedPrecondition` when there is none."""
    codec = engine.codec
    text = _WARM_UP
    if engine.capabilities.chat:
        text = codec.render([{"role": "user", "content": _WARM_UP}])
    sampling = Sampling(max_tokens=_WARM_UP_TOKENS, temperature=0.0, ignore_eos=True)
    try:
        generation = engine.submit(GenerationRequest("warm-up", codec.encode(text), sampling))
        tokens = [token async for event in generation for token in event.tokens]
    except MeshError as error:
        raise FailedPrecondition(f"the model does not answer: {error.message}") from error
    if not tokens:
        raise FailedPrecondition("the model does not answer: its first answer has no token")
