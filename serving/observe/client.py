"""What a client of the mesh counts, for the Prometheus registry of the program that it is part of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from serving.discovery.client_config import ClientStats

_TEXTS = {
    "requests": "Requests that were begun.",
    "succeeded": "Requests that were answered.",
    "failed": "Requests that failed for good.",
    "cancelled": "Requests that the caller gave up.",
    "attempts": "Calls of endpoints.",
    "retries": "Calls after the first of a request.",
    "budget_refused": "Retries that the budget did not allow.",
    "waited": "Requests that had to wait for an endpoint.",
    "ejections": "Endpoints that were left out.",
    "restored": "Endpoints that were taken back.",
    "spared": "Calls of endpoints of another side of a traffic split.",
    "shadows": "Copies of requests that were sent.",
    "shadows_failed": "Copies that failed.",
    "shadows_dropped": "Copies that were not sent.",
}


class ClientCollector(Collector):
    """`ClientCollector(lambda: client.stats, registry=REGISTRY, labels={"application": "digits"})`.

    `registry` None registers nothing, for programs that do so themselves.
    """

    def __init__(
        self,
        stats: Callable[[], ClientStats],
        *,
        registry: CollectorRegistry | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._stats = stats
        self._labels = dict(labels or {})
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        names, values = list(self._labels), list(self._labels.values())
        for name, text in _TEXTS.items():
            counter = CounterMetricFamily(f"mesh_client_{name}", text, labels=names)
            counter.add_metric(values, getattr(stats, name))
            yield counter
        gauge = GaugeMetricFamily("mesh_client_in_flight", "Requests under way.", labels=names)
        gauge.add_metric(values, stats.in_flight)
        yield gauge
        codes = CounterMetricFamily("mesh_client_failed_by_code", "Failed requests by code.", labels=[*names, "code"])
        for code, count in sorted(dict(stats.failed_by_code).items()):
            codes.add_metric([*values, code], count)
        yield codes

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the client before the first scrape."""
        return ()
