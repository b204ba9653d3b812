"""An embedding model's HTTP application over a held embedder, under a real server."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from serving.embedding.app import build_app
from serving.embedding.batcher import BatchLimits
from serving.embedding.instruments import EmbeddingInstruments
from serving.embedding.service import EmbeddingCore, EmbeddingService, make_service
from serving.python_deployment.instruments import Instruments
from tests.support.app_server import AppServer
from tests.support.held_embedder import HeldEmbedder


class EmbeddingServer(AppServer):
    """The model is called `held`. `limits` are those of its batches."""

    def __init__(self, embedder: HeldEmbedder, *, max_requests: int = 0, **limits: Any) -> None:
        registry = CollectorRegistry()
        core = EmbeddingCore(embedder, BatchLimits(**limits), EmbeddingInstruments(registry), cut=False)
        instruments = Instruments(registry, max_requests=max_requests)
        self.embedder = embedder
        self.registry = registry
        self.service: EmbeddingService = make_service(core, instruments, "held", revision="3", replica="held-0")
        super().__init__(build_app(self.service, registry))

    @property
    def in_flight(self) -> int:
        return self.service.inference.instruments.in_flight

    @property
    def waiting_tokens(self) -> int:
        return self.service.core.batcher.waiting_tokens

    async def end(self) -> None:
        self.embedder.may_go.set()
        await self.service.core.close()
