"""Connections to etcd's members: one line per endpoint, the healthy one first, TLS, and lines that went dead replaced.

Every endpoint has a channel of its own, because only then is it known which member failed, names and addresses of both
families can stand side by side, and a member that hangs (it accepts and never answers) can be passed over.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from serving.config import EtcdConfig, TlsConfig
from serving.errors import FailedPrecondition, InvalidArgument
from serving.store.wire import Method, Q, R

MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
_FIRST_PENALTY_S: Final = 0.5
_MAX_PENALTY_S: Final = 10.0
_DEAD_AFTER_TIMEOUTS: Final = 2
_PROTOCOL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a replaced line must be a new connection
)
_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<name>[^\[\]:/\s]+)):(?P<port>\d{1,5})")
_IPV4: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


def target_of(endpoint: str) -> str:
    """gRPC's target for `host:port`, `1.2.3.4:port` or `[::1]:port`. Raises `InvalidArgument` for anything else."""
    match = _ADDRESS.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"]) < 65_536:
        raise InvalidArgument(f"{endpoint!r} is no etcd endpoint: write host:port, or [address]:port for IPv6")
    if match["six"]:
        return f"ipv6:{endpoint}"
    return f"ipv4:{endpoint}" if _IPV4.fullmatch(match["name"]) else f"dns:///{endpoint}"


def _read(path: str, what: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"cannot read the {what} of the etcd connection: {error}") from error


def read_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    """Reads the PEM files (blocking). Raises `FailedPrecondition` that names the file that cannot be read."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file, "CA file"),
        private_key=_read(tls.key_file, "key file"),
        certificate_chain=_read(tls.cert_file, "certificate file"),
    )


class Line:
    """One channel to one endpoint. It is closed when it was replaced and its last user is gone, never under a call."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.users = 0
        self.replaced = False
        self._calls: dict[str, Any] = {}

    def unary(self, method: Method[Q, R]) -> grpc.aio.UnaryUnaryMultiCallable[Q, R]:
        call: grpc.aio.UnaryUnaryMultiCallable[Q, R] | None = self._calls.get(method.path)
        if call is None:
            call = self.channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            self._calls[method.path] = call
        return call

    def stream(self, method: Method[Q, R]) -> grpc.aio.StreamStreamMultiCallable[Q, R]:
        return self.channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )


class _Member:
    """What is known of one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.target = target_of(endpoint)
        self.line: Line | None = None
        self.failures = 0
        self.timeouts = 0
        self.avoid_until = 0.0


class Transport:
    """All lines of one client. Belongs to the event loop that first uses it."""

    def __init__(self, config: EtcdConfig, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises `InvalidArgument` when an endpoint is malformed or there is none. Connects to nothing yet."""
        if not config.endpoints:
            raise InvalidArgument("the etcd connection names no endpoint")
        self._config = config
        self._monotonic = monotonic
        self._members = [_Member(endpoint) for endpoint in dict.fromkeys(config.endpoints)]
        random.shuffle(self._members)  # clients spread over the members
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def endpoints(self) -> Sequence[str]:
        return [member.endpoint for member in self._members]

    @property
    def closed(self) -> bool:
        return self._closed

    def healthy_left(self) -> bool:
        """True while some endpoint has not failed lately."""
        now = self._monotonic()
        return any(member.avoid_until <= now for member in self._members)

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """The line to the first endpoint that has not failed lately, else to the one that failed longest ago."""
        if self._closed:
            raise FailedPrecondition("this etcd client is closed")
        now = self._monotonic()
        member = min(self._members, key=lambda item: max(item.avoid_until, now))
        line = member.line
        if line is None:
            channel = await self._open(member.target)
            if self._closed:
                await channel.close(None)
                raise FailedPrecondition("this etcd client was closed meanwhile")
            if member.line is None:
                member.line = Line(member.endpoint, channel)
            else:
                await channel.close(None)  # somebody else opened one meanwhile
            line = member.line
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            self._close_if_unused(line)

    async def _open(self, target: str) -> grpc.aio.Channel:
        if self._config.tls is None:
            return grpc.aio.insecure_channel(target, options=_PROTOCOL_OPTIONS)
        credentials = await asyncio.to_thread(read_credentials, self._config.tls)  # anew: they may have been rotated
        return grpc.aio.secure_channel(target, credentials, options=_PROTOCOL_OPTIONS)

    def succeeded(self, line: Line) -> None:
        member = self._member(line)
        member.failures = member.timeouts = 0
        member.avoid_until = 0.0

    def failed(self, line: Line, *, timed_out: bool) -> None:
        """Passes the endpoint over for a while; a line that only times out is given up for a new connection."""
        member = self._member(line)
        penalty = min(_MAX_PENALTY_S, _FIRST_PENALTY_S * 2.0 ** min(member.failures, 10))
        member.failures += 1
        member.avoid_until = self._monotonic() + penalty * random.uniform(0.5, 1.0)
        member.timeouts = member.timeouts + 1 if timed_out else 0
        if member.timeouts >= _DEAD_AFTER_TIMEOUTS and member.line is line:
            member.line, member.timeouts = None, 0
            line.replaced = True
            self._close_if_unused(line)

    def _member(self, line: Line) -> _Member:
        return next(member for member in self._members if member.endpoint == line.endpoint)

    def _close_if_unused(self, line: Line) -> None:
        if line.replaced and line.users == 0:
            task = asyncio.get_running_loop().create_task(line.channel.close(None))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes every line; calls that still run are cancelled. May be repeated."""
        self._closed = True
        for member in self._members:
            if member.line is not None:
                line, member.line = member.line, None
                await line.channel.close(None)
        if self._closing:
            await asyncio.gather(*self._closing)
