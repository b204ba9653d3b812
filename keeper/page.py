"""The keeper's own small HTTP page: /metrics for Prometheus, /events as JSON, /healthz."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keeper.events import Events
from keeper.mirror import Mirror
from keeper.picture import AppState
from keeper.placement import Liveness
from serving.errors import FailedPrecondition, InvalidArgument
from serving.timeouts import wait_for

REQUEST_LIMIT_S = 5.0


class KeeperCollector(Collector):
    """The figures of this keeper, read when they are asked for."""

    def __init__(
        self,
        mirror: Mirror,
        events: Events,
        leads: Callable[[], bool],
        now_s: Callable[[], float],
        own_batches: Callable[[], Mapping[str, int]],
    ) -> None:
        """`own_batches`: batches of mode `own` by state."""
        self._mirror = mirror
        self._events = events
        self._leads = leads
        self._now_s = now_s
        self._own_batches = own_batches

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("mesh_keeper_leads", "1 while this keeper leads", float(self._leads()))
        yield GaugeMetricFamily(
            "mesh_keeper_store_stale_seconds", "how long the store has not answered", self._mirror.stale_for_s
        )
        yield GaugeMetricFamily(
            "mesh_keeper_unrestored_applications", "remembered, not yet written back", len(self._mirror.remembered)
        )
        yield self._applications()
        yield self._clusters()
        own = GaugeMetricFamily("mesh_keeper_own_batches", "unfinished batches of mode own", labels=["state"])
        for state, count in self._own_batches().items():
            own.add_metric([state], count)
        yield own
        counts = CounterMetricFamily("mesh_keeper_events", "events by kind", labels=["kind"])
        restored = CounterMetricFamily("mesh_keeper_restored", "records written back, by kind", labels=["kind"])
        for kind, count in sorted(self._events.counts.items()):
            counts.add_metric([kind], count)
            if kind.startswith("restored-"):
                restored.add_metric([kind.removeprefix("restored-")], count)
        yield counts
        yield restored

    def _applications(self) -> Metric:
        states = {"placed": 0, "pending": 0, "deleting": 0}
        for app in self._mirror.picture.apps.values():
            if app.spec is not None:
                states[_state(app)] += 1
        family = GaugeMetricFamily("mesh_keeper_applications", "stored applications", labels=["state"])
        for state, count in states.items():
            family.add_metric([state], count)
        return family

    def _clusters(self) -> Metric:
        counts = {state.value: 0 for state in Liveness}
        for cluster in self._mirror.book.states(self._now_s()):
            counts[cluster.liveness.value] += 1
        family = GaugeMetricFamily("mesh_keeper_clusters", "known clusters", labels=["state"])
        for state, count in counts.items():
            family.add_metric([state], count)
        return family


def _state(app: AppState) -> str:
    if app.spec is not None and app.spec.value.deleting:
        return "deleting"
    return "placed" if app.decision is not None and app.decision.value.cluster else "pending"


class Page:
    """Serves the page on `host:port`; port 0 is any free one."""

    def __init__(self, listen: str, collector: KeeperCollector, events: Events) -> None:
        self._listen = listen
        self._events = events
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Raises `FailedPrecondition` for an address in use."""
        host, _, port = self._listen.rpartition(":")
        if not port.isdigit():
            raise InvalidArgument(f"metrics_listen: {self._listen!r} is not host:port")
        try:
            self._server = await asyncio.start_server(self._serve, host or "127.0.0.1", int(port), limit=16_384)
        except OSError as error:
            raise FailedPrecondition(f"cannot listen on {self._listen} for metrics: {error.strerror}") from error
        bound = self._server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_LIMIT_S)
            writer.write(self._response(head))
            writer.close()
            await wait_for(writer.wait_closed(), REQUEST_LIMIT_S)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a client that does not speak HTTP, reads nothing, or left: nothing to answer
        finally:
            writer.transport.abort()  # what is closed stays; else the server would wait for the client to read

    def _response(self, head: bytes) -> bytes:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        path = parts[1].decode("ascii", "replace").partition("?")[0] if len(parts) == 3 else ""
        if parts[0] != b"GET":
            return _http("405 Method Not Allowed", "text/plain", b"only GET\n")
        if path == "/metrics":
            return _http("200 OK", "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry))
        if path == "/events":
            return _http("200 OK", "application/json", self._events.as_json().encode())
        if path == "/healthz":
            return _http("200 OK", "text/plain", b"ok\n")
        return _http("404 Not Found", "text/plain", b"there are /metrics, /events and /healthz\n")


def _http(status: str, content_type: str, body: bytes) -> bytes:
    fields = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode() + body
