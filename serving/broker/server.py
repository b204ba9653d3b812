"""A broker as one object: its journals, its gRPC server, and in which order they end."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from serving._proto import records_pb2 as pb
from serving.broker.callbacks.deliveries import Deliveries
from serving.broker.draining import Draining
from serving.broker.home import Home
from serving.broker.instruments import BrokerInstruments
from serving.broker.load import broker_load
from serving.broker.service import BrokerService
from serving.broker.settings import BrokerSettings
from serving.broker.shard import Shard
from serving.config import TlsConfig
from serving.control.clock import Clock, SystemClock
from serving.python_deployment.server import BURSTS, start_listening

_ENVELOPE: Final = 1 << 20  # of a message, besides the body
_STOP_S: Final = 1.0


class BrokerServer:
    """From `start` to `close` on one event loop."""

    def __init__(self, settings: BrokerSettings, registry: CollectorRegistry, clock: Clock | None = None) -> None:
        self.home = Home(settings, clock)
        self._deployments = settings.deployments
        self._instruments = BrokerInstruments(self.home, settings.deployments, registry)
        self._deliveries = Deliveries(settings, clock or SystemClock(), self._instruments.called_back)
        self.home.on_open = self._opened
        self.home.on_release = self._released
        self._service = BrokerService(self.home, settings, self._instruments, self._deliveries)
        most = max(settings.max_request_bytes, settings.max_result_bytes) + _ENVELOPE
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
                *BURSTS,
                ("grpc.keepalive_time_ms", 10_000),  # a replica whose node is gone
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ]
        )
        self._server.add_generic_rpc_handlers((self._service.handlers(),))

    async def start(self, host: str, port: int, tls: TlsConfig | None) -> int:
        """Opens journals, then serves. Returns the port. Raises `FailedPrecondition`, `ResourceExhausted`."""
        await self.home.start()
        self._deliveries.start()
        return await start_listening(self._server, host, port, tls)

    @property
    def journals(self) -> tuple[str, ...]:
        """That are served now."""
        return tuple(self.home.shards)

    @property
    def refused_journals(self) -> dict[str, str]:
        """Those that lie here and cannot be opened, and why."""
        return dict(self.home.refused)

    @property
    def draining(self) -> Draining:
        """Whether new requests are taken."""
        return self.home.draining

    def load(self) -> pb.ReplicaLoad:
        """For the master. From any thread."""
        return broker_load(self.home, self._deployments)

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return self._service.in_flight

    def endpoint_left(self, replica: str) -> None:
        """A replica's endpoint is gone from discovery."""
        self.home.pulls.endpoint_left(replica)

    def endpoint_back(self, replica: str) -> None:
        """It is there again, after it was gone."""
        self.home.pulls.endpoint_back(replica)

    def refuse(self) -> None:
        """New calls are answered UNAVAILABLE; nothing is handed out any more, and streams of replicas end."""
        self._service.refusing.set()
        self._deliveries.stop()
        self.home.pulls.refusing = True
        self.home.pulls.close_all()
        for shard in self.home.shards.values():
            shard.watchers.close()  # who waits for an end asks again, at the journal's next home

    async def wait_idle(self) -> None:
        """Returns when no call that changes or asks anything is on its way, and no callback is."""
        await self._service.idle.wait()
        await self._deliveries.wait_idle()

    async def close(self) -> None:
        """Lets go of the journals, and ends what is still open. May be repeated."""
        self.refuse()
        await self.home.close()
        await self._deliveries.close()
        await self._server.stop(_STOP_S)

    def _opened(self, shard: Shard) -> None:
        shard.journal.commits.on_commit = self._instruments.committed
        self._deliveries.opened(shard)

    def _released(self, shard: Shard) -> None:
        self._instruments.released(shard.queues.all_counters)
        self._deliveries.released(shard)
