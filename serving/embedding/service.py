"""What both protocols of one embedding replica share: who is let in, and the way from inputs to vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.embedding.batcher import BatchLimits, EmbeddingBatcher
from serving.embedding.embedder import TokenEmbedder, Vectors
from serving.embedding.inputs import Input, Inputs
from serving.embedding.instruments import EmbeddingInstruments
from serving.embedding.kserve import EmbeddingModel
from serving.errors import Code
from serving.python_deployment.inference import Inference
from serving.python_deployment.instruments import Instruments
from serving.python_deployment.user_loop import ServingLoop

MAX_BODY_BYTES = 8 << 20  # of one request, in either protocol


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` are float32 [n, dimension], each of length 1; `tokens` were computed for all of them."""

    vectors: Vectors
    tokens: int


class EmbeddingCore:
    """From inputs to vectors. Belongs to one event loop."""

    def __init__(
        self, embedder: TokenEmbedder, limits: BatchLimits, instruments: EmbeddingInstruments, *, cut: bool
    ) -> None:
        self.dimension = embedder.dimension
        self.max_tokens = embedder.max_tokens
        self.batcher = EmbeddingBatcher(embedder, limits, instruments)
        self._inputs = Inputs(embedder, cut=cut)
        self._instruments = instruments
        instruments.watch(lambda: self.batcher.waiting_tokens)

    async def embed(self, inputs: Sequence[Input], *, cut: bool | None = None, batch: bool = False) -> Embedded:
        """`batch`: all others go first. What waits of it ends with its caller.

        Raises what `Inputs.read` and `EmbeddingBatcher.embed` raise.
        """
        try:
            read = await self._inputs.read(inputs, cut=cut)
            return Embedded(await self.batcher.embed(read, batch=batch), sum(map(len, read)))
        except asyncio.CancelledError:
            self._instruments.cancelled.inc()
            raise

    async def close(self) -> None:
        await self.batcher.close()
        self._inputs.close()


@dataclass(frozen=True, slots=True)
class EmbeddingService:
    """A `ModelService`. `inference` counts and bounds the requests of both protocols."""

    core: EmbeddingCore
    inference: Inference
    model: str
    revision: str
    replica: str = ""
    max_body_bytes: int = MAX_BODY_BYTES
    write_timeout_s: float = 60.0
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model,)

    @property
    def context_tokens(self) -> int:
        return self.core.max_tokens

    @property
    def failure(self) -> str:
        return f"the embedder fails: {self.core.batcher.failure}" if self.core.batcher.failure else ""

    def draining(self) -> bool:
        return self.inference.draining.is_set()

    def count(self, method: str, code: Code, seconds: float, *, batch: bool = False) -> None:
        self.inference.instruments.count(method, code, seconds, batch=batch)
        if not batch:
            self.inference.instruments.statistics.note(code, seconds)


def make_service(
    core: EmbeddingCore, instruments: Instruments, model: str, *, revision: str, replica: str = ""
) -> EmbeddingService:
    """On the loop that serves."""
    inference = Inference(EmbeddingModel(core, model), ServingLoop(), instruments)
    return EmbeddingService(core, inference, model, revision, replica)
