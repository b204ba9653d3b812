"""ModelStreamInfer: requests of one stream run beside each other.

Answers of a class that gives one to each request keep their order; a class that yields sends them as they come.

Errors of a request are answered in the stream, as Triton does; with `triton_grpc_error: true` in the metadata the first
one ends it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import grpc.aio

from serving.errors import MeshError, Unavailable
from serving.python_deployment.codec import encode_streamed_error
from serving.python_deployment.failure import at_edge, status_text
from serving.python_deployment.inference import DRAINING, Inference

_LOG: Final = logging.getLogger(__name__)
_MOST_AT_ONCE: Final = 16 * 1024  # requests of one stream that run, or whose answers wait
_MOST_UNSENT: Final = 64 << 20  # bytes of answers that wait to be taken; no more requests are read while there are more
_ERRORS_END_IT: Final = ("triton_grpc_error", "true")


class ModelStream:
    """One stream, from `run` to its end."""

    def __init__(self, inference: Inference, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._inference = inference
        self._context = context
        self._metadata = tuple((str(name), value) for name, value in context.invocation_metadata() or ())
        self._errors_end_it = _ERRORS_END_IT in self._metadata
        self._running: set[asyncio.Task[None]] = set()
        self._last_turn: asyncio.Event | None = None
        self._sending = asyncio.Lock()
        self._unsent = 0  # bytes
        self._failed: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()

    async def run(self) -> MeshError | None:
        """Returns when the client has sent everything and has every answer; the error that ends the stream, if any."""
        if self._inference.draining.is_set():
            return Unavailable(DRAINING)
        reading = asyncio.create_task(self._read())
        draining = asyncio.create_task(self._inference.draining.wait())
        ends: set[asyncio.Future[Any]] = {reading, draining, self._failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            while self._running and not self._failed.done():
                await asyncio.wait({*self._running, *ends} - {reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                return self._failed.result()
            if not reading.done():
                return Unavailable(DRAINING)
            reading.result()
            return None
        finally:
            self._failed.cancel()
            for task in (reading, draining, *self._running):
                task.cancel()
            await asyncio.gather(reading, draining, *self._running, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            data = await self._context.read()
            if not isinstance(data, bytes):  # the end
                return
            self._inference.instruments.request_bytes.inc(len(data))
            # Whoever holds an answer is one that runs.
            while (
                len(self._running) >= _MOST_AT_ONCE or self._unsent > _MOST_UNSENT
            ):  # a client that only sends must not fill the memory
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            before, mine = self._last_turn, asyncio.Event()
            self._last_turn = mine
            task = asyncio.create_task(self._one(data, before, mine))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:  # the client went away while it was answered
            _LOG.debug("answer not sent", extra={"error": repr(task.exception())})

    async def _one(self, data: bytes, before: asyncio.Event | None, mine: asyncio.Event) -> None:
        model = request_id = ""
        streams = self._inference.model.streams
        try:
            with self._inference.admit() as place:
                request = self._inference.read(data, self._metadata, self._context.time_remaining())
                model, request_id = request.model, request.id
                if streams:
                    await self._inference.stream(place, request, self._send)
                    return
                answer = await self._inference.answer(place, request, final=True)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an answer
            failure = at_edge(error, "ModelStreamInfer")
            if self._errors_end_it:
                self._fail(failure)
                return
            answer = encode_streamed_error(status_text(failure.message), model, request_id)
        self._unsent += len(answer)
        try:
            if before is not None and not streams:
                await before.wait()
            await self._send(answer)
        finally:
            self._unsent -= len(answer)
            mine.set()

    async def _send(self, data: bytes) -> None:
        """Waits while the client does not read."""
        async with self._sending:
            await self._context.write(data)
        self._inference.instruments.response_bytes.inc(len(data))

    def _fail(self, failure: MeshError) -> None:
        if not self._failed.done():
            self._failed.set_result(failure)
