"""The numbers of a language model's replica: those of calls under the names that all replicas use, and `mesh_llm_*`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.errors import Code
from serving.llm.engine import EngineLoad
from serving.llm.limits import Admission
from serving.observe import LATENCY_BUCKETS_S
from serving.python_deployment.instruments import Statistics

_TOKEN_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_SECONDS_BUCKETS: Final = (*LATENCY_BUCKETS_S, 60.0, 120.0, 300.0)


class LlmInstruments:
    """Belongs to the loop that serves; read from the thread that answers scrapes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.statistics = Statistics()
        self._registry = registry
        self._calls = self._counter("mesh_ingress_calls", "Calls that were answered.", ["method", "code"])
        self._seconds = Histogram(
            "mesh_ingress_call_seconds",
            "Time from a call's message to the end of its answer.",
            ["method"],
            registry=registry,
            buckets=_SECONDS_BUCKETS,
        )
        self._first = self._histogram(
            "mesh_llm_time_to_first_token_seconds", "From a request to the first token of a choice.", _SECONDS_BUCKETS
        )
        self._each = self._histogram(
            "mesh_llm_time_per_output_token_seconds", "Between tokens of a choice, in the mean.", _TOKEN_BUCKETS_S
        )
        self.prompt_tokens = self._counter("mesh_llm_prompt_tokens", "Tokens of prompts that were begun.")
        self.cached_tokens = self._counter("mesh_llm_cached_prompt_tokens", "Tokens of prompts found in the cache.")
        self.generated_tokens = self._counter("mesh_llm_generated_tokens", "Tokens of answers.")
        self.finished = self._counter("mesh_llm_choices_finished", "Choices by their end.", ["reason"])
        self.cancelled = self._counter("mesh_llm_requests_cancelled", "Requests that ended before all their choices.")

    def watch(self, load: Callable[[], EngineLoad], admission: Admission) -> None:
        """Shows what the engine and the admission count by themselves."""
        self._gauge("mesh_ingress_in_flight", "Generations that run or wait.", lambda: admission.requests)
        self._gauge("mesh_llm_waiting_prompt_tokens", "Of prompts without an answer.", lambda: admission.waiting_tokens)
        self._gauge("mesh_llm_engine_running", "Generations that the engine computes.", lambda: load().running)
        self._gauge("mesh_llm_engine_waiting", "Generations that wait in the engine.", lambda: load().waiting)
        self._gauge("mesh_llm_engine_paused", "Of these: begun ones that gave way.", lambda: load().paused)
        self._registry.register(_Pauses(load))
        self._gauge("mesh_llm_cache_usage_ratio", "Used share of the cache.", lambda: load().cache_usage)

    def count(self, method: str, code: Code, seconds: float, *, batch: bool = False) -> None:
        """The times of a batch, which waits for others, say nothing of how the replica does: only others' count."""
        self._calls.labels(method, code.name).inc()
        if not batch:
            self._seconds.labels(method).observe(seconds)
            self.statistics.note(code, seconds)

    def clock(self, *, batch: bool = False) -> RunClock:
        return RunClock(self, timed=not batch)

    def observe_first(self, seconds: float) -> None:
        self._first.observe(seconds)

    def observe_each(self, seconds: float) -> None:
        self._each.observe(seconds)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(name, text, labels or [], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, registry=self._registry, buckets=buckets)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(value)


class _Pauses(Collector):
    """What the engine counts itself."""

    def __init__(self, load: Callable[[], EngineLoad]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "mesh_llm_pauses", "Times that a generation of a batch gave way to others.", value=self._load().pauses
        )


class RunClock:
    """Of one request. Choices that begin together count from the same moment. Not `timed`: its times are not shown."""

    def __init__(self, instruments: LlmInstruments, *, timed: bool = True) -> None:
        self._timed = timed
        self._instruments = instruments
        self._started = time.perf_counter()
        self._begun = 0.0

    def first(self, prompt: int, cached: int) -> None:
        """The first token of a choice."""
        now = time.perf_counter()
        self._begun = self._begun or now
        if self._timed:
            self._instruments.observe_first(now - self._started)
        self._instruments.prompt_tokens.inc(prompt)
        self._instruments.cached_tokens.inc(max(0, cached))

    def finished(self, tokens: int, reason: str) -> None:
        """A choice."""
        if tokens > 1 and self._timed:
            self._instruments.observe_each((time.perf_counter() - self._begun) / (tokens - 1))
        self._instruments.finished.labels(reason).inc()

    def ended(self, tokens: int, complete: bool) -> None:
        """All of them."""
        self._instruments.generated_tokens.inc(tokens)
        if not complete:
            self._instruments.cancelled.inc()
