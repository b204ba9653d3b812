"""What a gateway counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.observe import LATENCY_BUCKETS_S
from serving.routing import Sides

_KEPT_S: Final = 600.0  # numbers of a model that is gone: long enough for the last scrape, and for one that comes back


class Instruments:
    """Prometheus metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last_seen: dict[str, float] = {}  # models with numbers, and when they were known for the last time
        self._splitting: dict[str, float] = {}  # applications with numbers of sides, and when they had the last request
        self._counted: dict[tuple[str, str, str], Counter] = {}  # its children: looking one up takes longer than a step
        self._requests = Counter(
            "mesh_gateway_requests",
            "Requests by path, model and status.",
            ["path", "model", "status"],
            registry=registry,
        )
        self.retries = Counter("mesh_gateway_retries", "Requests that were sent to another replica.", registry=registry)
        self.in_flight = Gauge("mesh_gateway_in_flight", "Requests that are not answered yet.", registry=registry)
        self.cancelled = Counter("mesh_gateway_cancelled", "Requests whose clients went away.", registry=registry)
        self.ejected = Gauge("mesh_gateway_ejected", "Replicas that are out because they failed.", registry=registry)
        self.broken = Counter("mesh_gateway_broken", "Answers that broke off in their middle.", registry=registry)
        self.routed = Counter(
            "mesh_gateway_routed",
            "Requests by why they went to their replica: session, prefix, load.",
            ["why"],
            registry=registry,
        )
        self.index_bytes = Gauge(
            "mesh_gateway_prefix_index_bytes", "Memory of what is known of prompts in caches.", registry=registry
        )
        self.resumed = Counter("mesh_gateway_resumed", "Streams that went on at another replica.", registry=registry)
        self.pulled = Counter(
            "mesh_gateway_pulled", "Requests that were brought to a broker (`dispatch: pull`).", registry=registry
        )
        self.cache = Counter(
            "mesh_gateway_cache",
            "What semantic caches said: exact, semantic, miss (it is generated, and kept), none (neither).",
            ["result"],
            registry=registry,
        )
        self.first_byte = Histogram(
            "mesh_gateway_first_byte_seconds",
            "Time until a replica begins to answer.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.route_requests = Counter(
            "mesh_gateway_route_requests",
            "Requests to a route, by the model that answered.",
            ["route", "model"],
            registry=registry,
        )
        self.route_fallbacks = Counter(
            "mesh_gateway_route_fallbacks",
            "Times that a route went on to its next model: this one was absent, full, or failed.",
            ["route", "model", "reason"],
            registry=registry,
        )

        self._sides, self._spared = _split_counters(registry)

    def on_side(self, app: str, sides: Sides, *, spared: bool) -> None:
        """An attempt of a request to an application."""
        for split, side in sides:
            self._splitting[app] = self._monotonic()
            self._sides.labels(app, split, side).inc()
            if spared:
                self._spared.labels(app, split, side).inc()

    def count(self, path: str, model: str, status: str) -> None:
        """A request that has ended. `model` is empty, or the full name of one."""
        labels = path, model, status
        child = self._counted.get(labels)
        if child is None:
            child = self._counted[labels] = self._requests.labels(*labels)
        child.inc()
        if model:
            self._last_seen[model] = self._monotonic()

    def keep(self, models: Collection[str]) -> None:
        """To be called now and then with the models that there are: numbers of others are forgotten after a while."""
        now = self._monotonic()
        for model, seen in list(self._last_seen.items()):
            if model in models:
                self._last_seen[model] = now
            elif now - seen > _KEPT_S:
                del self._last_seen[model]
                self._requests.remove_by_labels({"model": model})
                self._counted.clear()
        for app, seen in list(self._splitting.items()):
            if now - seen > _KEPT_S and not any(model.startswith(f"{app}/") for model in models):
                del self._splitting[app]
                self._sides.remove_by_labels({"application": app})
                self._spared.remove_by_labels({"application": app})


def _split_counters(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    names = ["application", "split", "side"]
    sides = Counter(
        "mesh_gateway_split_requests",
        "Requests that belong to a side of a traffic split, once for each attempt.",
        names,
        registry=registry,
    )
    spared = Counter(
        "mesh_gateway_split_spared",
        "Those of them that went to another side, as no replica of theirs works.",
        names,
        registry=registry,
    )
    return sides, spared
