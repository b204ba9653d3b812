"""The numbers of an embedding replica: those of calls under the names that all replicas use, and `mesh_embedding_*`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.observe import LATENCY_BUCKETS_S

_INPUT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKEN_BUCKETS: Final = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class EmbeddingInstruments:
    """A `BatchObserver`. Belongs to the loop that serves; read from the thread that answers scrapes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._inputs = Counter("mesh_embedding_inputs", "Texts that were computed.", registry=registry)
        self._tokens = Counter(
            "mesh_embedding_tokens", "Tokens that were computed, without padding.", registry=registry
        )
        self.cancelled = Counter(
            "mesh_embedding_requests_cancelled", "Requests whose client had gone.", registry=registry
        )
        self._waited = self._histogram(
            "mesh_embedding_queue_seconds", "From a request's tokens to its first batch.", LATENCY_BUCKETS_S
        )
        self._seconds = self._histogram("mesh_embedding_batch_seconds", "One batch's computation.", LATENCY_BUCKETS_S)
        self._batch_inputs = self._histogram("mesh_embedding_batch_inputs", "Texts of one batch.", _INPUT_BUCKETS)
        self._batch_tokens = self._histogram("mesh_embedding_batch_tokens", "Tokens of one batch.", _TOKEN_BUCKETS)

    def watch(self, waiting_tokens: Callable[[], int]) -> None:
        """Shows what the batcher counts by itself."""
        gauge = Gauge("mesh_embedding_waiting_tokens", "Of texts that wait for a batch.", registry=self._registry)
        gauge.set_function(waiting_tokens)

    def begun(self, waited_s: float) -> None:
        self._waited.observe(waited_s)

    def computed(self, inputs: int, tokens: int, seconds: float) -> None:
        self._inputs.inc(inputs)
        self._tokens.inc(tokens)
        self._batch_inputs.observe(inputs)
        self._batch_tokens.observe(tokens)
        self._seconds.observe(seconds)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, registry=self._registry, buckets=buckets)
