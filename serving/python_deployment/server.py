"""The gRPC server of a Python or an embedding replica: where it listens, and in which order it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from serving.config import TlsConfig
from serving.errors import FailedPrecondition
from serving.python_deployment import health, service
from serving.python_deployment.inference import Inference

# Calls that have come and not begun. Above 1,000, unless told otherwise, gRPC ends more and more of them with
# CANCELLED, of which no client knows that it may try again; what is really too much is refused by those who know.
BURSTS: Final = (
    ("grpc.server.max_pending_requests", 1 << 16),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
)
_DEFAULT_MESSAGE: Final = (1 << 31) - 1


class GrpcServer:
    """From `start` to `stop` on one event loop."""

    def __init__(self, inference: Inference, *, max_message_bytes: int = 0, platform: str = service.PLATFORM) -> None:
        self.health = health.HealthService(service.SERVICE)
        self._ready = True
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_bytes or _DEFAULT_MESSAGE),
                ("grpc.max_send_message_length", -1),
                *BURSTS,
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ]
        )
        kserve = service.KServeService(
            inference, lambda: self._ready and not inference.draining.is_set(), platform=platform
        )
        self._server.add_generic_rpc_handlers((kserve.handlers(), self.health.handlers()))

    async def start(self, host: str, port: int, tls: TlsConfig | None) -> int:
        """Returns the port. Raises `FailedPrecondition` when it cannot listen there."""
        return await start_listening(self._server, host, port, tls)

    def set_serving(self, serving: bool) -> None:
        """What health and readiness answer; requests are taken all the same."""
        self._ready = serving
        self.health.set_serving(serving)

    async def stop(self, limit_s: float) -> None:
        """Takes no calls, gives those that run this long, then ends them."""
        await self._server.stop(limit_s)


async def start_listening(server: grpc.aio.Server, host: str, port: int, tls: TlsConfig | None) -> int:
    """Returns the port. Raises `FailedPrecondition` when it cannot listen there."""
    address = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError as error:
        raise FailedPrecondition(f"cannot listen on {address}: {error}") from error
    await server.start()
    return int(bound)


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """With `ca_file`, clients must present a certificate that it vouches for."""
    try:
        pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
        authorities = Path(tls.ca_file).read_bytes() if tls.ca_file else None
    except OSError as error:
        reason = error.strerror or error
        raise FailedPrecondition(f"the TLS file {error.filename} cannot be read: {reason}") from error
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
