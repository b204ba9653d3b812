"""One Exchange stream: what a client submits and asks over it, each with its answer as soon as that is known.

A call costs both sides several turns of gRPC, which is most of what a small item costs; here what is said and answered
at the same moment goes in one message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import grpc.aio

from serving._proto import broker_pb2 as pb
from serving.broker import messages
from serving.broker.stream_writing import write
from serving.errors import Code, InvalidArgument, MeshError, Unavailable
from serving.python_deployment.codec import parse
from serving.python_deployment.failure import at_edge
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
MOST_ASKED: Final = 4096  # that are not answered; no more is read while there are
LARGE_BYTES: Final = 64 << 10  # a result above is not sent here: it would hold up the others
_MOST_UNSENT: Final = 16 << 20  # bytes of answers that the client has not read; no more is read meanwhile
_LEAVES: Final = "this broker leaves: what it was asked for may be done, ask whoever serves its journals next"


class Answering(Protocol):
    """What answers, as it answers calls."""

    async def submitted(
        self, requests: Sequence[pb.SubmitRequest], trace: Mapping[str, str]
    ) -> list[pb.SubmitReply | MeshError]:
        """Of each, when it is on disk or refused. They are kept also when the caller is cancelled."""

    async def got(self, request: pb.GetRequest, within_s: float | None, most: float) -> bytes | None:
        """The `Item`, within `within_s`; None: its result has more than `most` bytes. Raises errors of the mesh."""

    def enter(self) -> None:
        """Something is asked that is to be answered before the broker leaves."""

    def leave(self) -> None:
        """It is, or is not wanted any more."""

    def note(self, name: str, code: Code, seconds: float) -> None:
        """What came of one, for metrics."""


class Exchange:
    """From `run` to the end of the connection. Belongs to the broker's loop."""

    def __init__(
        self, answering: Answering, refusing: asyncio.Event, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        self._answering = answering
        self._refusing = refusing
        self._context = context
        self._outbox: deque[bytes] = deque()
        self._unsent = 0
        self._asked: set[int] = set()  # that are not answered
        self._gets: dict[int, asyncio.Task[None]] = {}  # of them
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()  # of who writes: there is an answer, or one less to wait for
        self._room = asyncio.Event()  # of who reads

    async def run(self) -> None:
        """Returns when the client has asked and heard everything. Raises errors of the mesh for other ends."""
        reading = asyncio.create_task(self._read())
        leaving = asyncio.create_task(self._refusing.wait())
        for first in (reading, leaving):
            first.add_done_callback(lambda _: self._wake.set())
        try:
            await self._write(lambda: _failed(reading) or ((reading.done() or leaving.done()) and not self._tasks))
            if reading.done():
                reading.result()
            if leaving.done():
                raise Unavailable(_LEAVES)
        finally:
            await cancel_and_wait(reading, leaving, *self._tasks)

    # ------------------------------------------------------------------------------------------------ what is said

    async def _read(self) -> None:
        while not self._refusing.is_set():
            while len(self._asked) >= MOST_ASKED or self._unsent >= _MOST_UNSENT:
                self._room.clear()
                await self._room.wait()
            data = await self._context.read()
            if not isinstance(data, bytes):  # the end
                return
            first = parse(data, pb.ExchangeRequest)
            if len(first.more) >= MOST_ASKED:
                raise InvalidArgument(f"more: {len(first.more)} are too many, with the first one at most {MOST_ASKED}")
            self._hear((first, *first.more))

    def _hear(self, said: Sequence[pb.ExchangeRequest]) -> None:
        """Submits that were said together are written together, but for those that are looked for first."""
        submits: dict[int, pb.SubmitRequest] = {}
        for message in said:
            kind, number = message.WhichOneof("message"), message.id
            if kind == "withdraw":
                if number in self._gets:
                    self._gets[number].cancel()
                continue
            if kind is None:
                raise InvalidArgument(f"message {number} of an Exchange is none of submit, get and withdraw")
            if number in self._asked:
                raise InvalidArgument(f"id: {number} stands for what is not answered yet")
            self._asked.add(number)
            if kind == "get":
                self._gets[number] = self._begin(self._get(number, message.get), (number,))
            elif message.submit.idempotency_key and not message.submit.new_key:  # a look-up may take long, or fail
                self._begin(self._submit({number: message.submit}), (number,))
            else:
                submits[number] = message.submit
        if submits:
            self._begin(self._submit(submits), tuple(submits))

    def _begin(self, work: Coroutine[Any, Any, None], numbers: Sequence[int]) -> asyncio.Task[None]:
        self._answering.enter()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, numbers))
        return task

    def _done(self, numbers: Sequence[int], task: asyncio.Task[None]) -> None:
        """Also of what was withdrawn before it began."""
        self._tasks.discard(task)
        self._asked.difference_update(numbers)
        self._gets.pop(numbers[0], None)
        self._answering.leave()
        self._wake.set()
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("an answer could not be made", exc_info=error)  # `_submit` and `_get` raise nothing

    # ------------------------------------------------------------------------------------------------ what is answered

    async def _submit(self, wanted: Mapping[int, pb.SubmitRequest]) -> None:
        started = time.perf_counter()
        answers: Sequence[pb.SubmitReply | MeshError]
        try:
            answers = await self._answering.submitted(list(wanted.values()), {})
        except Exception as error:  # noqa: BLE001 - the edge: it becomes a refusal
            answers = [at_edge(error, "Exchange", _LOG)] * len(wanted)
        took_s = time.perf_counter() - started
        for number, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, MeshError):
                self._refuse(number, "Submit", answer, took_s)
            else:
                self._answering.note("Submit", Code.OK, took_s)
                self._send(messages.exchanged_bytes(number, submitted=answer.SerializeToString()))

    async def _get(self, number: int, request: pb.GetRequest) -> None:
        started = time.perf_counter()
        try:
            item = await self._answering.got(request, None, LARGE_BYTES)
        except asyncio.CancelledError:
            self._answering.note("Get", Code.CANCELLED, time.perf_counter() - started)
            raise
        except Exception as error:  # noqa: BLE001 - the edge: it becomes a refusal
            self._refuse(number, "Get", at_edge(error, "Exchange", _LOG), time.perf_counter() - started)
            return
        self._answering.note("Get", Code.OK, time.perf_counter() - started)
        self._send(messages.exchanged_bytes(number, item=item))

    def _refuse(self, number: int, name: str, error: MeshError, took_s: float) -> None:
        self._answering.note(name, error.code, took_s)
        after_ms = getattr(error, "retry_after_ms", None) or 0
        refusal = pb.Refusal(code=int(error.code), message=error.message, retry_after_ms=after_ms)
        self._send(pb.ExchangeReply(id=number, refused=refusal).SerializeToString())

    def _send(self, answer: bytes) -> None:
        self._outbox.append(answer)
        self._unsent += len(answer)
        self._wake.set()

    async def _write(self, is_over: Callable[[], bool]) -> None:
        while True:
            self._wake.clear()
            while self._outbox:
                together = messages.together(self._outbox)
                await write(self._context, together, "the client")
                self._unsent -= sum(map(len, together))
                self._room.set()
            if is_over():
                return
            await self._wake.wait()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
