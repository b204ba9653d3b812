"""`grpc.health.v1.Health`, so that load balancers and the local mesh can ask whether a keeper serves.

The protocol's two messages have one field each, of the same shape as protobuf's own wrappers, which are used here in
their place: no second descriptor of `grpc.health.v1` can then clash with one that a program has loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from keeper.answers import Context

SERVING = 1
NOT_SERVING = 2
SERVICE_UNKNOWN = 3


class Health:
    """The state of the whole server ("") and of the named services."""

    def __init__(self, *services: str) -> None:
        self._status = {"": SERVING, **dict.fromkeys(services, SERVING)}
        self._changed = asyncio.Event()

    def not_serving(self) -> None:
        """From now on nothing here serves: callers should go elsewhere."""
        self._status = dict.fromkeys(self._status, NOT_SERVING)
        self._changed.set()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """To be added to a server."""
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._check, StringValue.FromString, Int32Value.SerializeToString
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch, StringValue.FromString, Int32Value.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    async def _check(self, request: StringValue, context: Context[Any, Any]) -> Int32Value:
        status = self._status.get(request.value)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.value[:80]!r} here")
        return Int32Value(value=status or SERVICE_UNKNOWN)

    async def _watch(self, request: StringValue, _: Context[Any, Any]) -> AsyncIterator[Int32Value]:
        """The state now and once more when it changed; a state changes only once, at the end."""
        yield Int32Value(value=self._status.get(request.value, SERVICE_UNKNOWN))
        await self._changed.wait()
        yield Int32Value(value=self._status.get(request.value, SERVICE_UNKNOWN))
