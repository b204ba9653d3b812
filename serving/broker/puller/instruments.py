"""What a replica tells of its pulling, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class PullInstruments:
    """On the replica's own registry."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        brokers: Callable[[], int],
        held: Callable[[], int],
        credit: Callable[[], int],
    ) -> None:
        self.outcomes = Counter(
            "mesh_pull_items",
            "Items that brokers gave this replica, by what became of them here",
            ["outcome"],  # "result", "failure", "returned", "stopped"
            registry=registry,
        )
        for name, text, read in (
            ("mesh_pull_brokers", "Brokers from which this replica pulls now", brokers),
            ("mesh_pull_held", "Items that run, or whose outcomes are not stored yet", held),
            ("mesh_pull_credit", "Credits that brokers have and have not used", credit),
        ):
            Gauge(name, text, registry=registry).set_function(read)
