"""Health checks and metrics of a replica, beside what it serves with a protocol of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.observe import MetricsServer
from serving.python_deployment import settings
from serving.python_deployment.health import HealthService
from serving.python_deployment.health_server import HealthServer


class SideServers:
    """From `start` to `stop` on one event loop. `health` may be told before."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str, registry: CollectorRegistry) -> None:
        self._advertised = settings.advertised_host(config, node_address)
        self.host = settings.listen_host(config)
        self.tls: TlsConfig | None = settings.serving_tls(config)
        self._health = HealthServer()
        self._metrics = MetricsServer(registry, host=self.host)

    @property
    def health(self) -> HealthService:
        return self._health.health

    async def start(self, port: int = 0) -> pb.ReplicaReport:
        """The part of the report that says where. The replica itself listens on `port`; 0: it serves nothing else.

        Raises `FailedPrecondition` when they cannot listen.
        """
        health_port = await self._health.start(self.host, self.tls)
        metrics_port = int((await self._metrics.start()).rpartition(":")[2])
        return pb.ReplicaReport(
            address=settings.joined(self._advertised, port or health_port),
            health_address=settings.joined(self._advertised, health_port),
            metrics_address=settings.joined(self._advertised, metrics_port),
        )

    async def stop(self) -> None:
        await self._health.stop()
        await self._metrics.close()
