"""The numbers of a Python replica, under the names that C++ replicas use, and who is let in."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving._proto import records_pb2 as pb
from serving.errors import SERVER_FAULTS, Code, ResourceExhausted
from serving.observe import LATENCY_BUCKETS_S

DEFAULT_REQUESTS: Final = 10_000


@dataclass(slots=True)
class Tally:
    """How often, and how long in nanoseconds: for ModelStatistics."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """Of inferences since the start."""

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    last_ms: int = 0  # unix time of the last one
    failed: int = 0  # by the server's fault
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))

    def note(self, code: Code, seconds: float) -> None:
        self.last_ms = int(time.time() * 1000)
        self.failed += code in SERVER_FAULTS
        (self.success if code is Code.OK else self.fail).add(seconds)
        self.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1

    def load(self) -> pb.ReplicaLoad:
        """What the process has done since it began, for the autoscaler."""
        totals = list(accumulate(self.buckets))
        return pb.ReplicaLoad(
            cpu_s=time.process_time(),
            requests=totals[-1],
            bounds_s=LATENCY_BUCKETS_S,
            within=totals[:-1],
            failed=self.failed,
        )


class Instruments:
    """Belongs to the loop that serves; read from the thread that answers scrapes."""

    def __init__(self, registry: CollectorRegistry, *, max_requests: int = 0) -> None:
        self.in_flight = 0
        self._of_batch = 0  # of these
        self.statistics = Statistics()
        self._max_requests = max_requests or DEFAULT_REQUESTS
        self._calls = Counter(
            "mesh_ingress_calls",
            "Calls of the inference service that were answered.",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "mesh_ingress_call_seconds",
            "Time from a call's message to its answer.",
            ["method"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.request_bytes = Counter(
            "mesh_ingress_infer_request_bytes",
            "Bytes of inference requests, streamed ones included.",
            registry=registry,
        )
        self.response_bytes = Counter("mesh_ingress_infer_response_bytes", "Bytes of their answers.", registry=registry)
        gauge = Gauge(
            "mesh_ingress_in_flight",
            "Requests of ModelInfer and ModelStreamInfer that are not answered yet.",
            registry=registry,
        )
        gauge.set_function(lambda: self.in_flight)

    @property
    def ongoing(self) -> int:
        """Of those in flight, what asks for replicas: the class batch takes what others leave. From any thread."""
        return max(0, self.in_flight - self._of_batch)

    def admit(self, share: float = 1.0, *, batch: bool = False) -> None:
        """Takes a request in; `leave` gives its place back. Raises `ResourceExhausted` when there is none."""
        limit = max(1, int(self._max_requests * share))
        if self.in_flight >= limit:
            raise ResourceExhausted(
                f"this replica is full: {limit} requests run or wait (max_requests); send the request to "
                "another replica, or later"
            )
        self.in_flight += 1
        self._of_batch += batch

    def leave(self, *, batch: bool = False) -> None:
        self.in_flight -= 1
        self._of_batch -= batch

    def count(self, method: str, code: Code, seconds: float, *, batch: bool = False) -> None:
        """The times of a batch, which waits for others, say nothing of how the replica does: only others' count."""
        self._calls.labels(method, code.name).inc()
        if not batch:
            self._seconds.labels(method).observe(seconds)
