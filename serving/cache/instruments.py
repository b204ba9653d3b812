"""The numbers of a semantic cache: `mesh_cache_*`, and what `GET /v1/cache` tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.cache.semantic_cache import Hit, Miss
from serving.cache.store import EntryStore
from serving.cache.turns import Follow, Lead, Turns
from serving.errors import Code
from serving.observe import LATENCY_BUCKETS_S
from serving.python_deployment.instruments import Statistics

_COUNTED: Final = {
    "misses": "Lookups without an answer.",
    "stored": "Answers that were kept.",
    "followed": "Requests that waited for the generation of another one.",
    "explored": "Lookups that the error bound sent on.",
    "failures": "Lookups and answers that the cache failed on.",
}
_BY_REASON: Final = {
    "refused": ("guard", "Near questions that a guard told apart."),
    "bypassed": ("reason", "Requests that are never cached."),
    "not_stored": ("reason", "Answers that were not kept."),
}


class CacheInstruments(Collector):
    """Belongs to the loop that serves; read from the thread that answers scrapes."""

    def __init__(self, turns: Turns, store: EntryStore, registry: CollectorRegistry, calls: Statistics) -> None:
        self._calls = calls
        self._turns = turns
        self._store = store
        self._seconds = Histogram(
            "mesh_cache_lookup_seconds",
            "Time of a lookup, by what it found.",
            ["result"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        registry.register(self)

    def looked_up(self, found: Hit | Miss | Lead | Follow, seconds: float) -> None:
        result = found.tier if isinstance(found, Hit) else type(found).__name__.lower()
        self._seconds.labels(result).observe(seconds)
        self._calls.note(Code.OK, seconds)

    def statistics(self) -> dict[str, Any]:
        counters = self._turns.cache.counters
        return {
            "entries": self._store.count,
            "bytes": self._store.size_bytes,
            "generating": self._turns.generating,
            "lookups": counters.lookups,
            "hits": {"exact": counters.exact_hits, "semantic": counters.semantic_hits},
            **{name: getattr(counters, name) for name in _COUNTED},
            **{name: counters.reasons(name) for name in _BY_REASON},
            "evicted": self._store.evicted,
            "expired": self._store.expired,
        }

    def collect(self) -> Iterator[Metric]:
        counters, store = self._turns.cache.counters, self._store
        hits = CounterMetricFamily("mesh_cache_hits", "Lookups that were answered.", labels=["tier"])
        hits.add_metric(["exact"], counters.exact_hits)
        hits.add_metric(["semantic"], counters.semantic_hits)
        yield hits
        for name, text in _COUNTED.items():
            yield CounterMetricFamily(f"mesh_cache_{name}", text, value=getattr(counters, name))
        for name, (label, text) in _BY_REASON.items():
            family = CounterMetricFamily(f"mesh_cache_{name}", text, labels=[label])
            for reason, count in counters.reasons(name).items():
                family.add_metric([reason], count)
            yield family
        yield CounterMetricFamily("mesh_cache_evicted", "Answers that made room.", value=store.evicted)
        yield CounterMetricFamily("mesh_cache_expired", "Answers that were too old.", value=store.expired)
        yield GaugeMetricFamily("mesh_cache_entries", "Answers that are kept.", value=store.count)
        yield GaugeMetricFamily("mesh_cache_bytes", "Their size, as `max_bytes` counts it.", value=store.size_bytes)
        yield GaugeMetricFamily("mesh_cache_generating", "Answers that are waited for.", value=self._turns.generating)
