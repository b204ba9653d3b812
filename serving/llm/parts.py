"""What a replica of a language model is made of: engine, OpenAI server, and what all replicas with HTTP have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.puller.asgi import AsgiRunner
from serving.broker.puller.run import EntryRunner, PullEntry
from serving.errors import FailedPrecondition, MeshError
from serving.llm import settings
from serving.llm.app import build_app
from serving.llm.engine import Engine, GenerationRequest, Sampling
from serving.llm.engines import make_engine
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import DEFAULT_REQUESTS, DEFAULT_WAIT_S, DEFAULT_WAITING_TOKENS, Limits
from serving.openai_http.parts import HttpParts
from serving.python_deployment import settings as common
from serving.python_deployment.instruments import Statistics

_LOG: Final = logging.getLogger(__name__)
_WARM_UP: Final = "Hello"
_PULLED: Final = 4  # items of brokers at least: they are computed together
_WARM_UP_TOKENS: Final = 2


class LlmParts(HttpParts):
    """`load` comes first, then see `HttpParts`."""

    def __init__(self, config: pb.ReplicaConfig, folder: Path, node_address: str) -> None:
        super().__init__(config, node_address)
        self._folder = folder
        self._instruments = LlmInstruments(self._registry)
        self._engine: Engine | None = None

    def _statistics(self) -> Statistics:
        return self._instruments.statistics

    def _endpoint(self, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
        assert self._engine is not None
        return settings.endpoint(self._config, report, node, self._engine.capabilities)

    def _failure(self) -> str:
        return f"the engine has failed: {self._engine.failure}" if self._engine and self._engine.failure else ""

    async def _release(self) -> None:
        if self._engine is not None:
            await self._engine.close()

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
        report = await self._serve(application)
        report.models.add(name=name, version=str(config.revision), state="READY")
        return report

    def pull_entry(self) -> PullEntry | None:
        assert self._counted is not None
        return PullEntry(EntryRunner(http=AsgiRunner(self._counted)), self._registry, least=_PULLED)


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
