"""What a master counts, for Prometheus. Read by the metrics' own thread when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.master.model import Replica
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState


@dataclass(frozen=True, slots=True)
class CanaryNumbers:
    """`share`: of the requests, 0 to 1. `failed`: what it tried was taken back."""

    share: float
    step: int  # from 1
    failed: bool


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
    canaries: Mapping[str, CanaryNumbers] = field(default_factory=dict)  # by deployment


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
        yield from self._canaries(numbers.canaries)
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

    def _canaries(self, canaries: Mapping[str, CanaryNumbers]) -> Iterable[Metric]:
        for name, text, value in (
            ("share", "The share of the requests that the new revision gets, 0 to 1.", lambda one: one.share),
            ("step", "The step of the canary, from 1.", lambda one: one.step),
            ("failed", "1: the canary failed, and the revision gets nothing.", lambda one: float(one.failed)),
        ):
            family = GaugeMetricFamily(f"mesh_master_canary_{name}", text, labels=[*self._names, "deployment"])
            for deployment, one in sorted(canaries.items()):
                family.add_metric([*self._values, deployment], value(one))
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
