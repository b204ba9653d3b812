"""The gRPC server around the service: address, TLS, health, ordered stop."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import grpc

from keeper.config import KeeperConfig
from keeper.health import Health
from keeper.routes_service import RoutesService
from keeper.service import KeeperService
from serving._proto import keeper_pb2 as api
from serving._proto import keeper_pb2_grpc as rpc
from serving._proto import routes_pb2_grpc as routes_rpc
from serving.config import TlsConfig
from serving.errors import FailedPrecondition, InvalidArgument

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_SERVICE = api.DESCRIPTOR.services_by_name["Keeper"].full_name


class Server:
    """Listens from `start` on; `address` is what clients are told."""

    def __init__(self, config: KeeperConfig, service: KeeperService, routes: RoutesService) -> None:
        self._config = config
        self._service = service
        self._routes = routes
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self.address = ""

    async def start(self) -> None:
        """Binds and serves. Raises `FailedPrecondition` for an address in use, `InvalidArgument` for bad TLS files."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ]
        )
        self._health = Health(_SERVICE)
        rpc.add_KeeperServicer_to_server(self._service, server)  # type: ignore[no-untyped-call]
        routes_rpc.add_RoutesServicer_to_server(self._routes, server)  # type: ignore[no-untyped-call]
        server.add_generic_rpc_handlers((self._health.handler(),))
        port = self._bind(server)
        await server.start()
        self._server = server
        host = self._config.listen.rpartition(":")[0]
        self.address = f"{self._config.advertise_host or host}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Says so by health, takes no new calls, lets running ones finish for `grace_s`, then ends. Repeatable."""
        if self._server is None or self._health is None:
            return
        self._health.not_serving()
        await self._server.stop(grace_s)
        self._server = None

    def _bind(self, server: grpc.aio.Server) -> int:
        listen, tls = self._config.listen, self._config.tls
        if not listen.rpartition(":")[2].isdigit():
            raise InvalidArgument(f"listen: {listen!r} is not host:port")
        credentials = server_credentials(tls) if tls else None
        try:
            if credentials is not None:
                port = server.add_secure_port(listen, credentials)
            else:
                port = server.add_insecure_port(listen)
        except RuntimeError as error:  # gRPC says only that it failed
            raise FailedPrecondition(_cannot_listen(listen)) from error
        if not port:
            raise FailedPrecondition(_cannot_listen(listen))
        return int(port)


def _cannot_listen(listen: str) -> str:
    """Asks the kernel again, which knows why, and says what to do."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "end what uses the port, or choose another one with --listen",
            errno.EACCES: "choose a port above 1023 with --listen",
        }.get(error.errno or 0, "name an address of this machine in listen.host of mesh.yaml, or with --listen")
        return f"cannot listen on {listen}: {error.strerror}; {advice}"
    return f"cannot listen on {listen}: gRPC refused it, although the address is free now; try again"


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Our certificate; with a CA also the demand for one of the client. Raises `InvalidArgument`."""
    if not tls.cert_file or not tls.key_file:
        raise InvalidArgument("tls: a server needs cert_file and key_file")
    ca = _read(tls.ca_file) if tls.ca_file else None
    return grpc.ssl_server_credentials(
        [(_read(tls.key_file), _read(tls.cert_file))], root_certificates=ca, require_client_auth=ca is not None
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"tls: cannot read {path}: {error.strerror}") from error
