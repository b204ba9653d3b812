"""The numbers of a broker: `mesh_broker_*`."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.broker.home import Home
from serving.broker.queues import Counters
from serving.broker.statistics import statistics
from serving.errors import Code
from serving.observe import LATENCY_BUCKETS_S

_GROUPS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_GAUGES: Final = {
    "queued": "Items that wait.",
    "running": "Items that run.",
    "dead": "Items whose attempts were used up.",
    "queued_bytes": "Bytes of the requests that wait.",
    "oldest_age_s": "Age of the item that has waited for longest.",
    "credits": "Items that replicas would take at once.",
    "replicas": "Replicas that pull.",
}
_COUNTED: Final = {
    "submitted": "Items that were taken.",
    "succeeded": "Items that ended with a result.",
    "failed": "Items that were answered with an error.",
    "requeued": "Items that went back to the queue.",
    "dead": "Items whose attempts were used up.",
    "cancelled": "Items that were cancelled.",
    "expired": "Items whose deadline passed.",
}


class BrokerInstruments(Collector):
    """Read from the thread that answers scrapes."""

    def __init__(self, home: Home, deployments: tuple[str, ...], registry: CollectorRegistry) -> None:
        self._home = home
        self._deployments = deployments
        self._closed: Counts[tuple[str, str]] = Counts()  # of journals that have gone elsewhere
        self._calls = Counter("mesh_broker_calls", "Calls that ended.", ["method", "code"], registry=registry)
        self._seconds = Histogram(
            "mesh_broker_call_seconds",
            "Time of a call; of streams from their begin to their end.",
            ["method"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._commit = Histogram(
            "mesh_broker_commit_seconds",
            "Time of a commit of the journal.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._group = Histogram(
            "mesh_broker_commit_changes", "Changes of one commit.", registry=registry, buckets=_GROUPS
        )
        registry.register(self)

    def called(self, method: str, code: Code, seconds: float) -> None:
        self._calls.labels(method, code.name).inc()
        self._seconds.labels(method).observe(seconds)

    def committed(self, seconds: float, changes: int) -> None:
        self._commit.observe(seconds)
        self._group.observe(changes)

    def released(self, counters: dict[str, Counters]) -> None:
        """A journal goes elsewhere: what was counted of it stays counted."""
        for deployment, counted in counters.items():
            for name in _COUNTED:
                self._closed[deployment, name] += getattr(counted, name)

    def collect(self) -> Iterator[Metric]:
        found = statistics(self._home, self._deployments)
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"mesh_broker_{name.removesuffix('_s')}", text, labels=["deployment"])
            for queue in found.queues:
                gauge.add_metric([queue.deployment], getattr(queue, name))
            yield gauge
        for name, text in _COUNTED.items():
            counter = CounterMetricFamily(f"mesh_broker_items_{name}", text, labels=["deployment"])
            for queue in found.queues:
                total = self._closed[queue.deployment, name]
                for shard in list(self._home.shards.values()):
                    total += getattr(shard.queues.counters(queue.deployment), name)
                counter.add_metric([queue.deployment], total)
            yield counter
        yield GaugeMetricFamily("mesh_broker_journals", "Journals that are served.", value=len(found.journals))
        yield GaugeMetricFamily(
            "mesh_broker_journals_refused", "Journals that cannot be opened.", value=len(self._home.refused)
        )
        yield GaugeMetricFamily("mesh_broker_drained", "1: no new requests are taken.", value=int(found.drained))
        yield GaugeMetricFamily("mesh_broker_kept_items", "Items that are kept, results included.", value=found.items)
        yield GaugeMetricFamily("mesh_broker_kept_bytes", "Their bytes.", value=found.bytes)
