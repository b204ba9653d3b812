"""What an agent counts, for Prometheus. Read by the metrics' own thread when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.master.model import ActorRow, ActorState
from serving.master.names import parse_master


@dataclass(frozen=True, slots=True)
class AgentNumbers:
    """One look at an agent."""

    actors: tuple[ActorRow, ...]
    nodes: int
    placements: int
    ending: int
    masters_killed: int
    registered: bool
    ray_away_s: float
    store_stale_s: float


class AgentCollector(Collector):
    """The label `cluster` stands on everything."""

    def __init__(self, look: Callable[[], AgentNumbers], cluster: str) -> None:
        self._look = look
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        numbers = self._look()
        masters = [row for row in numbers.actors if parse_master(row.name) is not None]
        states = Counter(row.state for row in masters)
        family = GaugeMetricFamily("mesh_agent_masters", "Application masters by state.", labels=["cluster", "state"])
        for state in ActorState:
            if state is not ActorState.DEAD:
                family.add_metric([self._cluster, state.name.lower()], states[state])
        yield family
        for name, text, value in (
            ("placements", "Work orders for this cluster.", numbers.placements),
            ("masters_ending", "Masters that drain.", numbers.ending),
            ("master_restarts", "Restarts of the masters that are there now.", sum(row.restarts for row in masters)),
            ("actors", "Living actors of the mesh, masters and replicas.", len(numbers.actors)),
            ("nodes", "Living nodes.", numbers.nodes),
            ("registered", "1 while the cluster's record is in etcd.", float(numbers.registered)),
            ("ray_away_seconds", "Since when Ray has not answered.", numbers.ray_away_s),
            ("store_stale_seconds", "Since when etcd has not answered.", numbers.store_stale_s),
        ):
            gauge = GaugeMetricFamily(f"mesh_agent_{name}", text, labels=["cluster"])
            gauge.add_metric([self._cluster], value)
            yield gauge
        killed = CounterMetricFamily("mesh_agent_masters_killed", "Masters that did not answer.", labels=["cluster"])
        killed.add_metric([self._cluster], numbers.masters_killed)
        yield killed
