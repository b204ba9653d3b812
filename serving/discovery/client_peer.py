"""One endpoint as a client sees it: its channel, opened lazily, and what runs on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from serving._proto import records_pb2 as pb
from serving.routing import LatencyTracker
from serving.types import ENDPOINT_READY

SERVICE: Final = "inference.GRPCInferenceService"

# Each peer has connections of its own and tries again soon: a replica comes back within a second or not at all.
CHANNEL_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # also the limit of one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # retries are ours: budgeted, and elsewhere
)

PeerKey: TypeAlias = tuple[str, str]  # id and address: a replica that came back elsewhere is another peer
Call: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any]"


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method of KServe v2: its path and how its answer is read."""

    path: str
    parse: Callable[[bytes], Any]


def _method(name: str) -> Method:
    return Method(f"/{SERVICE}/{name}", getattr(service_pb2, f"{name}Response").FromString)


METHODS: Final = {
    name: _method(name)
    for name in (
        "ServerLive",
        "ServerReady",
        "ServerMetadata",
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
        "ModelInfer",
    )
}


class Peer:
    """An endpoint, its channel, its running calls and its latency."""

    __slots__ = (
        "_credentials",
        "_latency",
        "_stubs",
        "aborted",
        "answered_at",
        "calls",
        "channel",
        "endpoint",
        "key",
        "leaving",
        "weight",
    )

    def __init__(self, endpoint: pb.Endpoint, credentials: grpc.ChannelCredentials | None) -> None:
        """`credentials` are used when the endpoint expects TLS."""
        self.key = peer_key(endpoint)
        self.endpoint = endpoint
        self.weight = endpoint.weight or 100
        self.leaving = endpoint.state != ENDPOINT_READY  # gets no new work
        self.calls: dict[Call, float] = {}  # to when they were started, oldest first
        self.aborted: set[Call] = set()  # cancelled by us because the endpoint hangs or the client closes
        self.answered_at = 0.0  # when it last answered anything
        self.channel: grpc.aio.Channel | None = None
        self._credentials = credentials
        self._latency = LatencyTracker()
        self._stubs: dict[str, Callable[..., Call]] = {}

    def update(self, endpoint: pb.Endpoint) -> None:
        """Takes over a changed record of the same endpoint."""
        self.leaving = endpoint.state != ENDPOINT_READY
        self.endpoint = endpoint
        self.weight = endpoint.weight or 100

    @property
    def in_flight(self) -> int:
        return len(self.calls)

    def latency_s(self, now: float) -> float:
        return self._latency.latency_s(now)

    def observe(self, latency_s: float, now: float) -> None:
        self._latency.observe(latency_s, now)

    def stub(self, name: str) -> Callable[..., Call]:
        """The method's callable: takes serialized bytes, answers a call that resolves to the parsed answer."""
        found = self._stubs.get(name)
        if found is None:
            if self.channel is None:
                self.channel = self._open()
            method = METHODS[name]
            found = self.channel.unary_unary(method.path, None, method.parse)
            self._stubs[name] = found
        return found

    def is_connected(self) -> bool:
        return self.channel is not None and self.channel.get_state() is grpc.ChannelConnectivity.READY

    def offers(self, model: str, version: str) -> bool:
        """True when the record names the model (and version); one without any models may offer all."""
        if not model or not self.endpoint.models:
            return True
        return any(
            entry.name == model and (not version or not entry.versions or version in entry.versions)
            for entry in self.endpoint.models
        )

    def abort_calls(self) -> None:
        """Ends what runs; the requests may go elsewhere."""
        for call in tuple(self.calls):
            self.aborted.add(call)
            call.cancel()

    async def close(self) -> None:
        channel, self.channel = self.channel, None
        self._stubs.clear()
        if channel is not None:
            await channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self.endpoint.tls:
            credentials = self._credentials or grpc.ssl_channel_credentials()
            return grpc.aio.secure_channel(self.endpoint.address, credentials, options=CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(self.endpoint.address, options=CHANNEL_OPTIONS)

    def __str__(self) -> str:
        return f"replica {self.endpoint.id} at {self.endpoint.address}"


def peer_key(endpoint: pb.Endpoint) -> PeerKey:
    return (endpoint.id, endpoint.address)


async def is_live(peer: Peer, timeout_s: float) -> bool:
    """Asks the endpoint whether it is live; False also when it does not answer in time or is leaving."""
    request = service_pb2.ServerLiveRequest().SerializeToString()
    call: Awaitable[Any] = peer.stub("ServerLive")(request, timeout=timeout_s, wait_for_ready=True)
    try:
        return bool((await call).live)
    except (grpc.aio.AioRpcError, grpc.aio.UsageError):
        return False
