"""`grpc.health.v1` (proto/grpc/health/v1/health.proto), by hand: its messages have one field each."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import grpc.aio

from serving.errors import InvalidArgument

SERVICE: Final = "grpc.health.v1.Health"
_SERVING: Final = b"\x08\x01"  # HealthCheckResponse.status
_NOT_SERVING: Final = b"\x08\x02"
_SERVICE_UNKNOWN: Final = b"\x08\x03"
_NAME_TAG: Final = 0x0A  # HealthCheckRequest.service
_MAX_NAME: Final = 127  # longer ones need a second byte of length, and are unknown anyway


class HealthService:
    """Answers for the whole server and for the services that it knows. Belongs to one loop."""

    def __init__(self, *services: str) -> None:
        self._known = {"", *services}
        self._serving = True
        self._draining = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        self._serving = serving
        self._wake()

    def drain(self) -> None:
        """Not serving for good; watchers are told and their streams end."""
        self._draining = True
        self._wake()

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            name = _service_of(data)
        except InvalidArgument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        if name not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the health of the service {name!r} is not known here")
        return self._status(name)

    async def _watch(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            name = _service_of(data)
        except InvalidArgument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        told = b""
        while True:
            changed = self._changed
            status = self._status(name)
            if status != told:
                await context.write(status)
                told = status
            if self._draining:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")
            await changed.wait()

    def _status(self, name: str) -> bytes:
        if name not in self._known:
            return _SERVICE_UNKNOWN
        return _SERVING if self._serving and not self._draining else _NOT_SERVING

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _service_of(data: bytes) -> str:
    if not data:
        return ""
    if len(data) < 2 or data[0] != _NAME_TAG or (data[1] <= _MAX_NAME and data[1] != len(data) - 2):
        raise InvalidArgument("the message is no HealthCheckRequest")
    return data[2:].decode("utf-8", "replace")
