"""One HTTP request and its answer, on ASGI: bounds, error objects, events with back-pressure, clients that go away."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from serving.asgi import CONNECTION, Connection
from serving.errors import Cancelled, DeadlineExceeded, MeshError
from serving.openai import sse
from serving.openai.errors import BodyTooLarge, InvalidRequest, error_object, retry_after_s, status_of
from serving.openai.json_body import read_object_apart
from serving.timeouts import interruptible, wait_for

_EVENTS: Final = b"text/event-stream"
_PAUSE_S: Final = 30.0  # between two pieces of a body
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
TIMEOUT: Final = b"x-request-timeout"  # seconds, from here to the last byte of the answer; also from gateway to replica
_TIMEOUT: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?")
_ENVOY_TIMEOUT: Final = b"x-envoy-expected-rq-timeout-ms"  # what Envoy's router gives the request
_ENVOY_MS: Final = re.compile(r"[0-9]{1,10}")


class BodyTooSlow(InvalidRequest):
    """Nothing came of a body for too long."""

    http_status = 408

    def __init__(self, pause_s: float) -> None:
        super().__init__(f"nothing of the body came for {pause_s:g} s", error_code="request_timeout")


class ClientGone(Cancelled):
    """The client closed its connection, or took nothing of its answer for too long."""


class Wire:
    """`request_id` is the client's `x-request-id` where it sent a usable one."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, replica: str, write_timeout_s: float) -> None:
        self._receive = receive
        self._send = send
        self._write_timeout_s = write_timeout_s
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._connection: Connection | None = scope.get("extensions", {}).get(CONNECTION, {}).get("connection")
        self.request_id = self._usable_id() or f"req_{secrets.token_hex(16)}"
        self._arrived = time.monotonic()
        self._until: float | None = None  # the client's deadline, once it was read
        self._until_read = False
        self.status = 0  # of the answer, once its head is on its way
        self._events = False  # the answer is a stream of events
        self._extra = [(b"x-request-id", self.request_id.encode())]
        if replica:
            self._extra.append((b"x-mesh-replica", replica.encode("latin-1", "replace")))

    def header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")

    def has_header(self, name: bytes) -> bool:
        return name in self._headers

    def add_header(self, name: str, value: str) -> None:
        """To the answer; before it begins."""
        self._extra.append((name.encode("latin-1"), value.encode("latin-1", "replace")))

    @property
    def trace_id(self) -> str | None:
        """Of `traceparent` (https://www.w3.org/TR/trace-context/)."""
        parts = self.header(b"traceparent").split("-")
        return parts[1] if len(parts) == 4 else None

    def time_left_s(self) -> float | None:
        """Of the client's deadline, at least 0; None where it sent none. Raises `InvalidRequest`.

        The nearer one of `x-request-timeout` (seconds) and Envoy's `x-envoy-expected-rq-timeout-ms`, where 0 is none.
        """
        if not self._until_read:
            self._until, self._until_read = self._deadline(), True
        return max(0.0, self._until - time.monotonic()) if self._until is not None else None

    def _deadline(self) -> float | None:
        given: list[float] = []
        text = self.header(TIMEOUT)
        if text:
            if not _TIMEOUT.fullmatch(text) or float(text) == 0:
                raise InvalidRequest(
                    f"{TIMEOUT.decode()}: seconds above 0 are wanted, such as 30 or 0.5; found {text[:40]!r}",
                    error_code="invalid_value",
                )
            given.append(float(text))
        expected = self.header(_ENVOY_TIMEOUT)
        if expected and _ENVOY_MS.fullmatch(expected) and int(expected):
            given.append(int(expected) / 1000)
        return self._arrived + min(given) if given else None

    async def read_object(self, limit_bytes: int) -> dict[str, Any]:
        """The JSON object of the body. Raises `InvalidRequest`, or `ClientGone` for one that is cut off."""
        return await read_object_apart(await self.read_body(limit_bytes), limit_bytes=limit_bytes)

    async def read_body(self, limit_bytes: int) -> bytes:
        """Raises as `pieces` does."""
        self._check_body(limit_bytes)
        data, more = await self._piece(limit_bytes)
        if more:
            pieces, size = [data], len(data)
            while more:
                data, more = await self._piece(limit_bytes, size)
                pieces.append(data)
                size += len(data)
            data = b"".join(pieces)
        return data

    async def pieces(self, limit_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes; the client is not read while nobody takes the next one.

        Raises `BodyTooLarge`, `BodyTooSlow`, `InvalidRequest` for a compressed one, `ClientGone` for half of one.
        """
        self._check_body(limit_bytes)
        size, more = 0, True
        while more:
            piece, more = await self._piece(limit_bytes, size)
            size += len(piece)
            yield piece

    def _check_body(self, limit_bytes: int) -> None:
        """As far as its head says what it is."""
        declared = self.header(b"content-length")
        if declared.isdigit() and int(declared[:20]) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        if self.header(b"content-encoding") not in ("", "identity"):
            raise InvalidRequest("compressed bodies are not taken; send it as it is", error_code="invalid_encoding")

    async def _piece(self, limit_bytes: int, size: int = 0) -> tuple[bytes, bool]:
        """The next piece behind `size` bytes, and whether more follows."""
        if self._connection is not None and self._connection.has_body:  # a timer costs as much as the reading
            message = await self._receive()
        else:
            try:
                message = await wait_for(self._receive(), _PAUSE_S)
            except asyncio.TimeoutError:
                raise BodyTooSlow(_PAUSE_S) from None
        if message["type"] == "http.disconnect":
            raise ClientGone("the client went away while it sent its request")
        piece: bytes = message.get("body", b"")
        if size + len(piece) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        return piece, message.get("more_body", False)

    async def unless_gone(self, work: Awaitable[None], cut: asyncio.Future[MeshError] | None = None) -> None:
        """Runs it to its end, in the caller's own task. When the client goes away first, or its time is over, cancels
        it and raises `ClientGone` or `DeadlineExceeded`; or what `cut` gives, when that is there first. Work always
        begins, and is cancelled where it waits: it may have something to give back.

        Only after the body was read.
        """
        with interruptible() as interrupt:
            end_client = self._watch_client(lambda: interrupt(ClientGone("the client closed its connection")))
            try:
                end_limits = self._watch_limits(interrupt, cut)
                try:
                    await work
                finally:
                    end_limits()
            finally:
                end_client()

    async def within_limits(self, work: Awaitable[None], cut: asyncio.Future[MeshError] | None = None) -> None:
        """As `unless_gone`, for work that reads the body, which says itself that the client has gone."""
        with interruptible() as interrupt:
            end_limits = self._watch_limits(interrupt, cut)
            try:
                await work
            finally:
                end_limits()

    def _watch_limits(
        self, interrupt: Callable[[Exception], None], cut: asyncio.Future[MeshError] | None
    ) -> Callable[[], None]:
        """Of the client's deadline, and of the server's own end, until what it gives is called."""
        timer: asyncio.TimerHandle | None = None
        left_s = self.time_left_s()
        if left_s is not None:
            text = "the time that the client has set for the request is over"
            timer = asyncio.get_running_loop().call_later(left_s, interrupt, DeadlineExceeded(text))

        def told(ended: asyncio.Future[MeshError]) -> None:
            interrupt(ended.result())

        def end() -> None:
            if timer is not None:
                timer.cancel()
            if cut is not None:
                cut.remove_done_callback(told)

        if cut is not None:
            cut.add_done_callback(told)
        return end

    def _watch_client(self, gone: Callable[[], None]) -> Callable[[], object]:
        """Calls `gone` when the client goes away, until what it gives is called."""
        connection = self._connection
        if connection is None:
            task = asyncio.ensure_future(self._gone())
            task.add_done_callback(lambda ended: None if ended.cancelled() else gone())
            return task.cancel
        connection.watch(gone)
        return lambda: connection.unwatch(gone)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Everything at once."""
        await self.answer_bytes(status, sse.to_json(value), "application/json", headers)

    async def answer_bytes(
        self, status: int, data: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        length = (b"content-length", str(len(data)).encode())
        await self._start(status, media_type, [length, *_encoded(headers)])
        await self.end(data)

    async def refuse(self, error: MeshError) -> None:
        """As the answer; or, where a stream has begun, as its last event, and then without `[DONE]`.

        What else has begun is broken off.
        """
        if self.status:
            if self._events:
                await self.end(sse.event(error_object(error)))
            else:
                self.abort()
            return
        after = retry_after_s(error)
        await self.answer(status_of(error), error_object(error), {"retry-after": str(after)} if after else None)

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of an answer that somebody else has made; `send` and `end` follow."""
        self.status = status
        own = {name for name, _ in self._extra}
        said = [field for field in headers if field[0] not in own]
        self._events = any(name == b"content-type" and value.startswith(_EVENTS) for name, value in said)
        said += self._extra
        await self._put({"type": "http.response.start", "status": status, "headers": said})

    async def begin_events(self, headers: Mapping[str, str] | None = None) -> None:
        self._events = True
        more = _encoded(headers)
        await self._start(200, sse.MEDIA_TYPE, [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), *more])

    async def send(self, data: bytes) -> None:
        """Waits while the client does not read. Raises `ClientGone` after `write_timeout_s` of that."""
        if data:
            await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": False})

    async def _start(self, status: int, media_type: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        own = [(b"content-type", media_type.encode()), *headers, *self._extra]
        await self._put({"type": "http.response.start", "status": status, "headers": own})

    async def _put(self, message: Message) -> None:
        try:
            connection = self._connection
            if connection is None or not connection.takes_more:
                await wait_for(self._send(message), self._write_timeout_s)
            elif message["type"] != "http.response.body":  # a timer costs as much as the sending
                await self._send(message)
            else:
                connection.hold()
                try:
                    await self._send(message)
                finally:
                    connection.flush()
        except asyncio.TimeoutError as error:
            self.abort()
            raise ClientGone(f"the client took nothing of its answer for {self._write_timeout_s:g} s") from error
        except OSError as error:
            raise ClientGone("the client went away") from error

    def abort(self) -> None:
        """Ends the connection at once, as far as the server can: the client sees that its answer is not whole."""
        if self._connection is not None:
            self._connection.abort()

    def _usable_id(self) -> str:
        text = self.header(b"x-request-id")
        return text if _REQUEST_ID.fullmatch(text) else ""


def _encoded(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
