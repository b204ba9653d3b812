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
        self.routed = Counter(
            "mesh_gateway_routed",
            "Requests by why they went to their replica: session, prefix, load.",
            ["why"],
            registry=registry,
        )
        self.index_bytes = Gauge(
            "mesh_gateway_prefix_index_bytes", "Memory of what is known of prompts in caches.", registry=registry
        )
        self.first_byte = Histogram(
            "mesh_gateway_first_byte_seconds",
            "Time until a replica begins to answer.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
