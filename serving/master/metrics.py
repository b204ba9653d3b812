"""What a master counts, for Prometheus. Read by the metrics' own thread when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.master.model import Replica
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState


@dataclass(frozen=True, slots=True)
class MasterNumbers:
    """One look at a master. `serving_revision` 0: none."""

    replicas: Mapping[ReplicaName, Replica]
    wanted: Mapping[str, int]  # by deployment
    generation: int
    revision: int
    serving_revision: int
    crash_loops: int
    store_away_s: float


class MasterCollector(Collector):
    """Labels carry the application, so that one scrape configuration fits all masters."""

    def __init__(self, look: Callable[[], MasterNumbers], *, namespace: str, application: str) -> None:
        self._look = look
        self._names = ["namespace", "application"]
        self._values = [namespace, application]

    def collect(self) -> Iterable[Metric]:
        numbers = self._look()
        rows = list(numbers.replicas.values())
        yield from self._replicas(rows, numbers.wanted)
        for name, text, value in (
            ("generation", "The placement that this master serves.", numbers.generation),
            ("revision_wanted", "The revision that is wanted.", numbers.revision),
            ("revision_serving", "The newest revision that serves; 0: none.", numbers.serving_revision),
            ("crash_loops", "Deployments whose replicas fail again and again.", numbers.crash_loops),
            ("store_away_seconds", "How long etcd has not answered.", numbers.store_away_s),
        ):
            family = GaugeMetricFamily(f"mesh_master_{name}", text, labels=self._names)
            family.add_metric(self._values, value)
            yield family

    def _replicas(self, rows: Iterable[Replica], wanted: Mapping[str, int]) -> Iterable[Metric]:
        states: Counter[tuple[str, ReplicaState]] = Counter()
        restarts: Counter[str] = Counter()
        for row in rows:
            states[row.name.deployment, row.state] += 1
            restarts[row.name.deployment] += row.restarts
        by_state = GaugeMetricFamily(
            "mesh_master_replicas", "Known replicas by state.", labels=[*self._names, "deployment", "state"]
        )
        again = GaugeMetricFamily(
            "mesh_master_replica_restarts",
            "Restarts in place of the replicas that are there now.",
            labels=[*self._names, "deployment"],
        )
        asked = GaugeMetricFamily(
            "mesh_master_replicas_wanted", "Replicas that the spec wants.", labels=[*self._names, "deployment"]
        )
        for deployment in sorted({*wanted, *restarts}):
            for state in ReplicaState:
                by_state.add_metric([*self._values, deployment, state.name.lower()], states[deployment, state])
            again.add_metric([*self._values, deployment], restarts[deployment])
            asked.add_metric([*self._values, deployment], wanted.get(deployment, 0))
        return by_state, again, asked
