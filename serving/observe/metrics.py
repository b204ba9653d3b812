"""Numbers of the Python processes, in Prometheus' text format on a port of their own (by default on loopback)."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from serving.control import Controller
from serving.control.stats import DURATION_BOUNDS_S
from serving.errors import FailedPrecondition

_LOG: Final = logging.getLogger(__name__)
_ANY_HOST: Final = ("0.0.0.0", "::")
LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def new_registry() -> CollectorRegistry:
    """A registry of its own with the process' CPU time, memory and open files, and Python's garbage collector."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class ControllerCollector(Collector):
    """Shows what controllers count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._controllers: list[Controller[Any]] = []
        registry.register(self)

    def add(self, controller: Controller[Any]) -> None:
        self._controllers.append(controller)

    def collect(self) -> Iterable[Metric]:
        runs = CounterMetricFamily("mesh_controller_runs", "Reconciles by outcome.", labels=["controller", "outcome"])
        seconds = HistogramMetricFamily("mesh_controller_run_seconds", "Time of one reconcile.", labels=["controller"])
        gauges = {
            name: GaugeMetricFamily(f"mesh_controller_{name}", text, labels=["controller"])
            for name, text in (
                ("waiting", "Keys that could run now."),
                ("delayed", "Keys that wait for a time."),
                ("running", "Reconciles under way."),
                ("failing", "Keys whose last run failed."),
            )
        }
        for controller in self._controllers:
            stats = controller.stats
            for outcome, count in stats.runs.items():
                runs.add_metric([controller.name, outcome], count)
            seconds.add_metric([controller.name], _cumulated(stats.durations), stats.duration_sum_s)
            for name, gauge in gauges.items():
                gauge.add_metric([controller.name], getattr(stats, name))
        return [runs, seconds, *gauges.values()]


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*DURATION_BOUNDS_S, float("inf")), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return buckets


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Without the base class's look-up of the host's name, which can hang where there is no name service."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10.0  # of a peer that connects and says nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Scrapes are no news."""


class MetricsServer:
    """Answers `GET /metrics` from a thread of its own, so that a busy event loop can still be looked at."""

    def __init__(self, registry: CollectorRegistry, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.registry = registry
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """`host:port`; empty before `start`."""
        if self._server is None:
            return ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._server.server_port}"

    async def start(self) -> str:
        """Returns the address. Raises `FailedPrecondition` when the port is taken."""
        if self._server is not None:
            raise FailedPrecondition(f"the metrics are served already, on {self.address}")
        binding = asyncio.ensure_future(asyncio.to_thread(self._bind))
        try:
            server = await asyncio.shield(binding)
        except asyncio.CancelledError:
            binding.add_done_callback(_close_unwanted)  # a thread cannot be cancelled: it binds all the same
            raise
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="mesh-metrics", daemon=True)
        self._thread.start()
        return self.address

    def _bind(self) -> _Server:
        kind = _Server6 if ":" in self._host else _Server
        try:
            server = kind((self._host, self._port), _QuietHandler)
        except OSError as error:
            raise FailedPrecondition(f"cannot serve metrics on {self._host}:{self._port}: {error}") from error
        server.set_app(make_wsgi_app(self.registry))
        return server

    async def close(self) -> None:
        """May be repeated."""
        server, self._server = self._server, None
        thread, self._thread = self._thread, None
        if server is not None and thread is not None:
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_end, server, thread)))


def _close_unwanted(binding: asyncio.Future[_Server]) -> None:
    if not binding.cancelled() and binding.exception() is None:
        binding.result().server_close()


def _end(server: _Server, thread: threading.Thread) -> None:
    """All of it on one thread, which goes on where the task that closes is cancelled. Takes up to half a second."""
    server.shutdown()
    thread.join()
    server.server_close()


async def serve_collector(collector: Collector, controller: Controller[Any], *, host: str) -> MetricsServer | None:
    """Serves a process' numbers and those of its loop on any free port of `host`.

    Numbers are worth less than what they tell of: where nothing can be listened on, that is logged, and None returned.
    """
    registry = new_registry()
    registry.register(collector)
    ControllerCollector(registry).add(controller)
    server = MetricsServer(registry, host=host)
    try:
        address = await server.start()
    except FailedPrecondition as error:
        _LOG.error("no metrics are served", extra={"error": error.message})
        return None
    _LOG.info("metrics are served", extra={"address": address})
    return server


def reached_by(server: MetricsServer | None, *, advertise_host: str, listen_host: str, node_address: str) -> str:
    """`host:port` by which others find the numbers; "" where there are none, or that is not known."""
    host = advertise_host or (node_address if listen_host in _ANY_HOST else listen_host)
    if server is None or not server.address or not host:
        return ""
    return f"{f'[{host}]' if ':' in host else host}:{server.address.rpartition(':')[2]}"
