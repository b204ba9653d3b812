"""The numbers of a broker: `mesh_broker_*`."""

from __future__ import annotations

import math
import time
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
OUTCOMES: Final = ("delivered", "failed", "given_up")  # of a try of a callback
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
        self._callback_tries = Counter(
            "mesh_broker_callback_tries",
            "Callbacks that were sent, by what came of it.",
            ["outcome"],
            registry=registry,
        )
        self._callback_seconds = Histogram(
            "mesh_broker_callback_seconds",
            "Time until the receiver of a callback answered.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        for outcome in OUTCOMES:
            self._callback_tries.labels(outcome)
        registry.register(self)

    def called(self, method: str, code: Code, seconds: float) -> None:
        self._calls.labels(method, code.name).inc()
        self._seconds.labels(method).observe(seconds)

    def committed(self, seconds: float, changes: int) -> None:
        self._commit.observe(seconds)
        self._group.observe(changes)

    def called_back(self, outcome: str, seconds: float) -> None:
        self._callback_tries.labels(outcome).inc()
        self._callback_seconds.observe(seconds)

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
        yield from self._callbacks()

    def _callbacks(self) -> Iterator[Metric]:
        callbacks = [shard.callbacks for shard in list(self._home.shards.values())]
        due = sum(len(one.entries) for one in callbacks)
        dead = sum(one.totals.dead for one in callbacks)
        oldest = min((one.totals.oldest for one in callbacks if one.entries), default=math.inf)
        age_s = max(0.0, time.time() - oldest) if oldest < math.inf else 0.0
        yield GaugeMetricFamily("mesh_broker_callbacks_due", "Callbacks that are to be sent.", value=due)
        yield GaugeMetricFamily("mesh_broker_callbacks_dead", "Callbacks that were given up.", value=dead)
        text = "Age of the callback that has been due for longest."
        yield GaugeMetricFamily("mesh_broker_callbacks_oldest_age", text, value=age_s)
