"""What holds for every call: it is counted, errors become error objects, and a client that goes away ends it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import Code, Unavailable
from serving.observe import get_logger, log_fields
from serving.openai.service_tier import BATCH_CLASS, CLASS_HEADER
from serving.openai_http.service import ModelService
from serving.python_deployment.failure import at_edge
from serving.wire import ClientGone, Wire

_LOG: Final = get_logger(__name__)

S = TypeVar("S", bound=ModelService)
Handler = Callable[[S, Wire, dict[str, Any]], Awaitable[None]]


class Exchange(Response, Generic[S]):
    """An ASGI answer that reads the request by itself, and does all of the work: `handle` gets the body's object."""

    def __init__(self, service: S, method: str, handle: Handler[S]) -> None:
        super().__init__()
        self._service = service
        self._method = method
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        wire = Wire(scope, receive, send, replica=service.replica, write_timeout_s=service.write_timeout_s)
        started = time.perf_counter()
        code = Code.CANCELLED
        with log_fields(request=wire.request_id, trace_id=wire.trace_id):
            try:
                code = await self._answered(wire)
            finally:
                seconds = time.perf_counter() - started
                batch = wire.header(CLASS_HEADER.encode()) == BATCH_CLASS
                service.count(self._method, code, seconds, batch=batch)
                _LOG.debug("call ended", method=self._method, code=code.name, seconds=round(seconds, 6))

    async def _answered(self, wire: Wire) -> Code:
        try:
            await self._run(wire)
        except ClientGone as error:
            _LOG.info("client gone", method=self._method, reason=error.message)
            return Code.CANCELLED
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an error object
            failure = at_edge(error, self._method)
            try:
                await wire.refuse(failure)
            except ClientGone as gone:
                _LOG.info("client gone before its error", method=self._method, reason=gone.message)
            return failure.code
        return Code.OK

    async def _run(self, wire: Wire) -> None:
        service = self._service
        if service.draining():
            raise Unavailable("this replica is draining; send the request to another one")
        wire.time_left_s()  # a wrong one is refused before the body is read
        body = await wire.read_object(service.max_body_bytes)
        await wire.unless_gone(self._handle(service, wire, body))
