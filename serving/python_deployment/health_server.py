"""A gRPC server with nothing but health checks, for replicas whose requests come over another protocol."""

from __future__ import annotations

from typing import Final

import grpc.aio

from serving.config import TlsConfig
from serving.python_deployment.health import HealthService
from serving.python_deployment.server import start_listening

_STOP_S: Final = 0.5


class HealthServer:
    """From `start` to `stop` on one event loop. `health` may be told before."""

    def __init__(self) -> None:
        self.health = HealthService()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, tls: TlsConfig | None) -> int:
        """On any free port, which is returned. Raises `FailedPrecondition` when it cannot listen."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((self.health.handlers(),))
        port = await start_listening(server, host, 0, tls)
        self._server = server
        return port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(_STOP_S)
