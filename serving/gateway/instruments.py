"""What a gateway counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.observe import LATENCY_BUCKETS_S


class Instruments:
    """Prometheus metrics of one gateway process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
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
