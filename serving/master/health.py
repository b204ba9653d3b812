"""Health checks of one replica's process over gRPC: `grpc.health.v1`, with messages of two bytes made by hand.

A Watch stream breaks within milliseconds of the death of its process; a Check each second finds one that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from serving.config import TlsConfig
from serving.master.model import Health
from serving.timeouts import wait_for

_WATCH: Final = "/grpc.health.v1.Health/Watch"
_CHECK: Final = "/grpc.health.v1.Health/Check"
_WHOLE_SERVER: Final = b""  # HealthCheckRequest without a service
_STEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class HealthLimits:
    interval_s: float = 1.0
    timeout_s: float = 1.0
    failures: int = 3  # unanswered checks in a row that make a process count as hung


class _Answer(Enum):
    ANSWERED = 1
    SILENT = 2
    CLOSED = 3


class HealthCheck:
    """Follows the process `pid` at `address`. `on_change` is called on the loop with each new verdict."""

    def __init__(
        self,
        address: str,
        pid: int,
        on_change: Callable[[Health], None],
        *,
        tls: TlsConfig | None = None,
        limits: HealthLimits | None = None,
    ) -> None:
        self.address = address
        self.pid = pid
        self._on_change = on_change
        self._tls = tls
        self._limits = limits or HealthLimits()
        self._last = Health(pid)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            answer = await self._until_doubt()
            failures = 0
            while answer is not _Answer.ANSWERED:
                failures += 1
                gone = answer is _Answer.CLOSED
                self._say(Health(self.pid, gone=gone, hung=failures >= self._limits.failures))
                if gone:
                    await asyncio.sleep(self._limits.interval_s)
                answer = await self._attempt()
            self._say(Health(self.pid))

    async def _until_doubt(self) -> _Answer:
        """Holds a connection while everything is well; returns what a look at the port said when it was not."""
        async with self._channel() as channel:
            broken = asyncio.ensure_future(self._watch(channel))
            try:
                while True:
                    await asyncio.wait({broken}, timeout=self._limits.interval_s)
                    if broken.done():
                        return await self._attempt()
                    if not await self._check(channel, self._limits.timeout_s):
                        return await self._knock()
            finally:
                broken.cancel()
                await asyncio.wait({broken})

    async def _attempt(self) -> _Answer:
        """One check on fresh connections. While they break it goes on: a dying process closes its port last."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.timeout_s
        while True:
            async with self._channel() as channel:
                if await self._check(channel, max(_STEP_S, deadline - loop.time())):
                    return _Answer.ANSWERED
            knocked = await self._knock()
            if knocked is _Answer.CLOSED or loop.time() + _STEP_S >= deadline:
                return knocked
            await asyncio.sleep(_STEP_S)

    async def _check(self, channel: grpc.aio.Channel, timeout_s: float) -> bool:
        """True for any answer of the process itself, also "not serving" and "unknown method"."""
        check = channel.unary_unary(_CHECK, request_serializer=None, response_deserializer=None)
        try:
            await check(_WHOLE_SERVER, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """Returns when the stream ends, which is when its process ends. A server without Watch is only checked."""
        try:
            async for _ in channel.unary_stream(_WATCH, request_serializer=None, response_deserializer=None)(
                _WHOLE_SERVER
            ):
                continue
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                await asyncio.Event().wait()

    async def _knock(self) -> _Answer:
        """A bare connection tells a closed port, which is a dead process, from a silent one."""
        host, _, port = self.address.rpartition(":")
        try:
            opening = asyncio.open_connection(host.strip("[]"), int(port))
            _, writer = await wait_for(opening, self._limits.timeout_s)
        except ConnectionRefusedError:
            return _Answer.CLOSED
        except (OSError, asyncio.TimeoutError):
            return _Answer.SILENT
        writer.close()
        return _Answer.SILENT

    def _say(self, health: Health) -> None:
        if health != self._last:
            self._last = health
            self._on_change(health)

    def _channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, never one that another check broke
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        ]
        if self._tls is None:
            return grpc.aio.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(
            _read(self._tls.ca_file), _read(self._tls.key_file), _read(self._tls.cert_file)
        )
        return grpc.aio.secure_channel(self.address, credentials, options=options)


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
