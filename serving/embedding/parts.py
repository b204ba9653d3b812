"""What an embedding replica is made of: model, OpenAI and KServe servers, health, metrics, registration."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from starlette.types import ASGIApp

from serving._proto import records_pb2 as pb
from serving.asgi import HttpServer
from serving.broker.puller.asgi import AsgiRunner
from serving.broker.puller.kserve import KServeRunner
from serving.broker.puller.run import EntryRunner, PullEntry
from serving.embedding import settings
from serving.embedding.app import build_app
from serving.embedding.instruments import EmbeddingInstruments
from serving.embedding.kserve import MODEL_VERSION, PLATFORM
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.embedding.service import MAX_BODY_BYTES, EmbeddingCore, EmbeddingService, make_service
from serving.errors import FailedPrecondition
from serving.observe import MetricsServer, new_registry
from serving.python_deployment import settings as common
from serving.python_deployment.instruments import Instruments
from serving.python_deployment.registration import Registration
from serving.python_deployment.server import GrpcServer
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 1.0
_STOP_S: Final = 1.0  # for answers on their way when the time is over
_WARM_UP: Final = "Hello"
_PULLED: Final = 4  # items of brokers at least: they are computed together


class EmbeddingParts:
    """In this order: `load`, `listen`, `register`; `withdraw`, `refuse`, `wait_idle`, `close`. Belongs to one loop."""

    def __init__(self, config: pb.ReplicaConfig, folder: Path | None, node_address: str) -> None:
        """`folder` has the model's files; None is the model of the installed package."""
        self._config = config
        self._folder = folder
        self._node_address = node_address
        self._registry = new_registry()
        self._instruments = Instruments(self._registry, max_requests=settings.max_requests(config))
        self._core: EmbeddingCore | None = None
        self._service: EmbeddingService | None = None
        self._application: ASGIApp | None = None
        self._http: HttpServer | None = None
        self._grpc: GrpcServer | None = None
        self._metrics: MetricsServer | None = None
        self._registration = Registration(config, self._registry)

    def describe(self, report: pb.ReplicaReport) -> None:
        """From any thread."""
        report.in_flight = self._instruments.ongoing
        report.load.CopyFrom(self._instruments.statistics.load())
        self._registration.describe(report)

    # ------------------------------------------------------------------------------------------------ coming up

    async def load(self) -> None:
        """Loads the model and has it answer once. Raises `FailedPrecondition`, `InvalidArgument` for wrong options."""
        config = self._config
        options = settings.embedder_options(config, self._folder, len(os.sched_getaffinity(0)))
        cut = settings.cuts(config)
        embedder = await asyncio.to_thread(OpenVinoEmbedder, options)
        wanted = config.embedding.max_tokens
        if wanted > embedder.max_tokens:
            raise FailedPrecondition(f"max_tokens: the model reads {embedder.max_tokens} of a text, not {wanted}")
        _LOG.info("model loaded", extra={"model": embedder.name, "dimension": embedder.dimension})
        instruments = EmbeddingInstruments(self._registry)
        self._core = EmbeddingCore(embedder, settings.batch_limits(config), instruments, cut=cut)
        await _warm_up(self._core, embedder)

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where, and what. Raises `FailedPrecondition`."""
        config = self._config
        assert self._core is not None
        host = common.listen_host(config)
        advertised = common.advertised_host(config, self._node_address)
        tls = common.serving_tls(config)
        name = settings.model_name(config)
        service = self._service = make_service(
            self._core, self._instruments, name, revision=str(config.revision), replica=config.id
        )
        self._grpc = GrpcServer(service.inference, max_message_bytes=MAX_BODY_BYTES, platform=PLATFORM)
        grpc_port = await self._grpc.start(host, 0, tls)
        application = self._application = build_app(service, self._registry)
        self._http = HttpServer(application)
        http_port = await self._http.start(host, config.listen_port, tls)
        self._metrics = MetricsServer(self._registry, host=host)
        metrics_port = int((await self._metrics.start()).rpartition(":")[2])
        report = pb.ReplicaReport(
            address=common.joined(advertised, http_port),
            health_address=common.joined(advertised, grpc_port),
            metrics_address=common.joined(advertised, metrics_port),
        )
        report.models.add(name=name, version=MODEL_VERSION, state="READY")
        return report

    async def register(self, report: pb.ReplicaReport) -> None:
        """The first time begins to register, then the records change with the report."""
        await self._registration.put(*settings.endpoints(self._config, report, socket.gethostname()))

    def pull_entry(self) -> PullEntry | None:
        assert self._service is not None
        assert self._application is not None
        runner = EntryRunner(infer=KServeRunner(self._service.inference), http=AsgiRunner(self._application))
        return PullEntry(runner, self._registry, least=_PULLED)

    async def reconfigure(self, _text: str) -> None:
        raise FailedPrecondition("an embedding model is not changed in place: another revision replaces it")

    # ------------------------------------------------------------------------------------------------ health

    async def watch_health(self, tell: Callable[[str], None]) -> None:
        """Until cancelled. `tell` hears after each look why the replica is unhealthy; empty: it is well."""
        assert self._service is not None
        assert self._http is not None
        assert self._grpc is not None
        told = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            reason = self._service.failure if self._http.serving else "the HTTP server has ended"
            if reason and reason != told:
                _LOG.error("the replica is not well", extra={"reason": reason})
            told = reason
            self._grpc.set_serving(not reason)
            tell(reason)

    # ------------------------------------------------------------------------------------------------ going down

    async def withdraw(self) -> bool:
        """Leaves discovery; True when it was there, so that somebody may still be on the way."""
        return await self._registration.withdraw()

    def refuse(self) -> None:
        """From now on requests are answered that the replica drains."""
        if self._service is not None:
            self._service.inference.draining.set()
        if self._grpc is not None:
            self._grpc.health.drain()

    async def wait_idle(self, limit_s: float) -> bool:
        """True when nothing runs, False when something still does after `limit_s`."""
        if self._service is None:
            return True
        try:
            await wait_for(self._service.inference.wait_idle(), limit_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self, left_s: Callable[[], float] = lambda: 0.0) -> None:
        """Ends what still runs and releases everything; answers may be on their way for `left_s`."""
        if self._instruments.in_flight:
            _LOG.warning("requests are cut off", extra={"in_flight": self._instruments.in_flight})
        if self._core is not None:
            await self._core.close()
        limit_s = max(_STOP_S, left_s())
        await asyncio.gather(*(one.stop(limit_s) for one in (self._http, self._grpc) if one is not None))
        await self._registration.close()
        if self._metrics is not None:
            await self._metrics.close()


async def _warm_up(core: EmbeddingCore, embedder: OpenVinoEmbedder) -> None:
    """A short text and the longest one, before which the replica is not ready. Raises `FailedPrecondition`."""
    short = embedder.tokenize(_WARM_UP).ids
    vectors = await core.batcher.embed([short, [short[0]] * embedder.max_tokens])
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
        raise FailedPrecondition(
            "the model does not answer: its first vectors are no unit vectors; are its files whole?"
        )
