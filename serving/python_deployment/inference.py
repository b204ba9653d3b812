"""One inference request from its message to its answers: on the loop that serves, with the work on the user's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from tritonclient.grpc import service_pb2

from serving.errors import Cancelled, Code, NotFound, Unavailable
from serving.python_deployment.codec import (
    WANTS_EMPTY_FINAL,
    Signature,
    decode_request,
    encode_answer,
    encode_end,
    parse,
)
from serving.python_deployment.failure import told
from serving.python_deployment.instruments import Instruments
from serving.python_deployment.request import Request
from serving.python_deployment.user_loop import Work

# The client's clock began a little earlier: at its deadline it takes the call back before ours has passed.
_NEAR_S: Final = 0.05

DRAINING = "this replica is draining and takes no new requests; send them to another endpoint"
Metadata = Sequence[tuple[str, str | bytes]]
Send = Callable[[bytes], Awaitable[None]]
Deliver = Callable[[object], Awaitable[None]]
T = TypeVar("T")


class Model(Protocol):
    """What answers requests: a user's class (`UserCode`), or something of ours. Its coroutines run on a `WorkLoop`.

    One that `streams` gets requests over `stream`, any other over `infer`.
    """

    @property
    def signature(self) -> Signature: ...

    @property
    def streams(self) -> bool: ...

    async def infer(self, request: Request) -> object: ...

    async def stream(self, request: Request, deliver: Deliver, deliver_blocking: Callable[[object], None]) -> None: ...


class WorkLoop(Protocol):
    """Where a model runs: `UserLoop` or `ServingLoop`."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]: ...


class Inference:
    """Lets requests in, runs them, and knows how many run. Belongs to the loop that serves."""

    def __init__(self, model: Model, loop: WorkLoop, instruments: Instruments) -> None:
        self.model = model
        self.instruments = instruments
        self.draining = asyncio.Event()
        self._loop = loop
        self._idle = asyncio.Event()
        self._running: set[Work[Any]] = set()

    def admit(self, *, share: float = 1.0, batch: bool = False) -> Place:
        """`share` of all places may be taken with it. What is of the class `batch` is no load.

        Raises `Unavailable` while it drains and `ResourceExhausted` when it is full.
        """
        if self.draining.is_set():
            raise Unavailable(DRAINING)
        self.instruments.admit(share, batch=batch)
        self._idle.clear()
        return Place(self, batch=batch)

    def check_model(self, name: str, version: str) -> None:
        """Raises `NotFound` for any model but the one there is."""
        signature = self.model.signature
        if name != signature.model:
            raise NotFound(f"Request for unknown model: '{name}' is not found; this replica serves {signature.model}")
        if version not in ("", "-1", signature.version):
            raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")

    def read(self, data: bytes, metadata: Metadata, left_s: float | None) -> Request:
        """The request of a message, checked. Raises errors of `serving.errors`."""
        message = parse(data, service_pb2.ModelInferRequest)
        self.check_model(message.model_name, message.model_version)
        return decode_request(message, self.model.signature, metadata, left_s)

    async def answer(self, place: Place, request: Request, *, final: bool | None = None) -> bytes:
        """The one answer, encoded. Raises errors of `serving.errors`; cancels the work when it is cancelled."""

        async def work() -> bytes:
            answer = await self.model.infer(request)
            return encode_answer(answer, request, self.model.signature, final=final)

        return bytes(await self._result(place, request, self._loop.run(work)))

    async def stream(self, place: Place, request: Request, send: Send) -> None:
        """All answers of a request to a class that yields them, each passed to `send` as it comes."""
        here = asyncio.get_running_loop()

        def deliver(answer: object) -> Any:
            if request.cancelled:
                raise Cancelled("the caller went away")
            encoded = encode_answer(answer, request, self.model.signature, final=False)
            return asyncio.run_coroutine_threadsafe(_awaited(send(encoded)), here)

        async def deliver_here(answer: object) -> None:
            await asyncio.wrap_future(deliver(answer))

        work = self._loop.run(lambda: self.model.stream(request, deliver_here, lambda item: deliver(item).result()))
        await self._result(place, request, work)
        if request.parameters.get(WANTS_EMPTY_FINAL) is True:
            await send(encode_end(request, self.model.signature))

    async def _result(self, place: Place, request: Request, work: Work[Any]) -> Any:
        place.keep_until_ended(work)
        started = time.perf_counter()
        code = Code.OK
        try:
            return await work.result()
        except asyncio.CancelledError:
            request.give_up()
            late = request.left_s is not None and request.left_s <= _NEAR_S
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
            raise
        except Cancelled as error:
            if not self.draining.is_set():
                code = Code.CANCELLED
                raise
            code = Code.UNAVAILABLE
            # Not in the words of a refusal: clients may send again only what may run twice.
            raise Unavailable("this replica left before the request was done, and ended it") from error
        except Exception as error:
            failure = told(error, "infer", traceparent=request.traceparent)
            code = failure.code
            raise failure from error
        finally:
            self.instruments.statistics.note(code, time.perf_counter() - started)

    def begun(self, work: Work[Any]) -> None:
        self._running.add(work)

    def ended(self, work: Work[Any] | None, *, batch: bool) -> None:
        if work is not None:
            self._running.discard(work)
        self.instruments.leave(batch=batch)
        if not self.instruments.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when nothing runs."""
        while self.instruments.in_flight:
            await self._idle.wait()

    def cancel_all(self) -> None:
        for work in list(self._running):
            work.cancel()


class Place:
    """A request's place in the count of those in flight, given back once: at the end of its work, or of the block."""

    def __init__(self, inference: Inference, *, batch: bool) -> None:
        self._inference = inference
        self._batch = batch
        self._held_by_work = False

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._held_by_work:
            self._inference.ended(None, batch=self._batch)

    def keep_until_ended(self, work: Work[Any]) -> None:
        """The work counts as in flight for as long as it runs, also when nobody waits for it any more."""
        self._held_by_work = True
        self._inference.begun(work)
        work.here().add_done_callback(lambda _: self._inference.ended(work, batch=self._batch))


async def _awaited(sending: Awaitable[None]) -> None:
    await sending
