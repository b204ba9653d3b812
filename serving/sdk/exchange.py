"""Submits and Gets of a client at one broker, over one stream (`Exchange` of proto/broker.proto)."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving.errors import DeadlineExceeded, FailedPrecondition
from serving.timeouts import cancel_and_wait, wait_for

_MOST_ASKED: Final = 1000  # a broker takes 4,096 that are not answered; what is above has a call of its own
_LARGE_BYTES: Final = 64 << 10  # the same: it would hold up the others
_MOST_SAID: Final = 4 << 20  # bytes that the broker has not read yet; more is asked by calls, which end in time
_TOGETHER: Final = 256 << 10  # bytes of one message
_ANSWER_S: Final = 0.1  # of the time for a Get, for its answer's way: it is not waited for so long
_BROKEN: Final = "Internal error from Core"  # grpc.aio's words for a write to a connection that has just gone
_KINDS: Final = {"Submit": "submit", "Get": "get"}


class Exchange:
    """Of one connection; opened with the first question, and again after it has ended. Belongs to one event loop.

    A broker that does not know it (UNIMPLEMENTED) is asked by calls.
    """

    def __init__(self, stub: Any) -> None:
        """`stub`: a `BrokerStub`."""
        self._stub = stub
        self._known = True
        self._next = 1
        self._asked: dict[int, asyncio.Future[bpb.ExchangeReply]] = {}
        self._said: dict[int, bpb.ExchangeRequest] = {}  # by id, what is still to be written
        self._said_bytes = 0
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """The answer of Submit or Get by the stream, of whatever else by a call.

        A Get waits no longer than it can be answered in time. Raises `grpc.aio.AioRpcError` as calls do, `Refused` and
        `DeadlineExceeded`.
        """
        kind = _KINDS.get(method)
        if kind is not None and self._known and self._has_room(request.ByteSize()):
            try:
                message = bpb.ExchangeRequest(**{kind: request})  # a copy
                if kind == "get":
                    # A broker knows the deadline of a call, of a question over the stream it does not.
                    message.get.wait_s = min(request.wait_s, max(0.0, timeout_s - _ANSWER_S))
                reply = await self._ask(method, message, timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                self._known = False
            else:
                if reply.HasField("refused"):
                    raise Refused(reply.refused)
                if not reply.HasField("large"):
                    return reply.submitted if kind == "submit" else reply.item
        return await getattr(self._stub, method)(request, timeout=timeout_s)

    async def close(self) -> None:
        """Who still waits is cancelled. May be repeated."""
        self._closed = True
        if self._running is not None:
            await cancel_and_wait(self._running)
        self._settle(None)  # a task that is cancelled before its first step does nothing

    async def _ask(self, method: str, message: bpb.ExchangeRequest, timeout_s: float) -> bpb.ExchangeReply:
        if self._closed:
            raise FailedPrecondition("the connection to this broker is closed")
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="exchange")
        message.id, self._next = self._next, self._next + 1
        answer: asyncio.Future[bpb.ExchangeReply] = asyncio.get_running_loop().create_future()
        self._asked[message.id] = answer
        self._say(message)
        try:
            return await wait_for(answer, timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"{method} was not answered within {timeout_s:.3g} s") from None
        finally:
            if self._asked.pop(message.id, None) is not None and (answer.cancelled() or not answer.done()):
                self._leave(message.id)

    def _has_room(self, size: int) -> bool:
        """For a question of so many bytes."""
        return len(self._asked) < _MOST_ASKED and size <= _LARGE_BYTES and self._said_bytes + size <= _MOST_SAID

    # ------------------------------------------------------------------------------------------------ the stream

    async def _run(self) -> None:
        """Until it ends; then nobody knows what became of what is not answered."""
        call: Any = None
        writing: asyncio.Task[None] | None = None
        failure: Exception | None = None
        try:
            call = self._stub.Exchange()
            writing = asyncio.create_task(self._write(call))
            while isinstance(first := await call.read(), bpb.ExchangeReply):
                for reply in (first, *first.more):
                    answer = self._asked.get(reply.id)
                    if answer is not None and not answer.done():
                        answer.set_result(reply)
            failure = _ended()
        except grpc.aio.AioRpcError as error:
            failure = _ended() if error.details() == _BROKEN else error
        except Exception as error:  # noqa: BLE001 - it goes to who asked
            failure = error
        finally:
            self._settle(failure)
            if call is not None:
                call.cancel()
            if writing is not None:
                await cancel_and_wait(writing)

    def _settle(self, failure: Exception | None) -> None:
        """Nothing that was asked is answered any more; the next question opens another stream. None: cancelled."""
        self._running = None
        asked, self._asked, self._said, self._said_bytes = list(self._asked.values()), {}, {}, 0
        for answer in asked:
            if not answer.done():
                answer.set_exception(failure) if failure is not None else answer.cancel()

    def _say(self, message: bpb.ExchangeRequest) -> None:
        self._said[message.id] = message
        self._said_bytes += message.ByteSize()
        self._wake.set()

    def _leave(self, number: int) -> None:
        """Its answer is not wanted any more: it is not said at all, or withdrawn."""
        unsaid = self._said.pop(number, None)
        if unsaid is None:
            self._say(bpb.ExchangeRequest(id=number, withdraw=bpb.Withdraw()))
        else:
            self._said_bytes -= unsaid.ByteSize()

    async def _write(self, call: Any) -> None:
        while True:
            self._wake.clear()
            while self._said:
                await call.write(self._together())
            await self._wake.wait()

    def _together(self) -> bpb.ExchangeRequest:
        """Of what is to be said, as much as goes into one message; at least one."""
        together: list[bpb.ExchangeRequest] = []
        bytes_together = 0
        for message in self._said.values():
            size = message.ByteSize()
            if together and bytes_together + size > _TOGETHER:
                break
            together.append(message)
            bytes_together += size
        for message in together:
            del self._said[message.id]
        self._said_bytes -= bytes_together
        first, *others = together
        first.more.extend(others)
        return first


class Refused(Exception):
    """What a broker refuses over a stream."""

    def __init__(self, refusal: bpb.Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _ended() -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, "the broker has ended the stream", "")
