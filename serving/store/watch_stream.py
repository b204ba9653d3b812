"""One watch stream to one member: created, read, probed when it is quiet, given up when it is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from serving._proto import etcd_pb2 as pb
from serving.errors import StoreUnavailable
from serving.store import wire
from serving.store.calls import Calls
from serving.store.faults import Cure, RevisionGone, fault_of_status
from serving.store.history import History
from serving.store.transport import Line
from serving.timeouts import cancel_and_wait

PROBE_AFTER_S: Final = 3.0
_SILENT_TIMEOUTS: Final = 1.5  # request timeouts that a probe may take


class WatchStream:
    """Made by `open_stream`. One reader."""

    def __init__(self, calls: Calls, line: Line, call: Any, metadata: tuple[tuple[str, str], ...], what: str) -> None:
        self._calls = calls
        self._line = line
        self._call = call
        self._metadata = metadata
        self._what = what
        self._reading: asyncio.Task[Any] | None = None
        self._over = asyncio.Event()
        call.add_done_callback(lambda _: self._over.set())

    async def create(self, prefix: str, history: History) -> None:
        """Asks for everything after what is known. Raises `RevisionGone` when the member is of another store."""
        start, end = wire.range_of_prefix(prefix)
        request = pb.WatchCreateRequest(
            key=start, range_end=end, start_revision=history.revision + 1, progress_notify=True, fragment=True
        )
        await self._write(pb.WatchRequest(create_request=request))
        response = await self._read()
        while not response.created:
            response = await self._read()
        self._check(response)
        if response.header.cluster_id != history.cluster_id:
            raise RevisionGone(f"{self._what}: etcd {self._line.endpoint} has another cluster id")
        if response.header.revision < history.revision:
            self._calls.transport.failed(self._line, timed_out=False)
            raise StoreUnavailable(f"{self._what}: etcd {self._line.endpoint} lags behind the others")
        self._calls.transport.succeeded(self._line)

    async def batch(self) -> tuple[list[pb.Event], int]:
        """The next events, whole revisions only, with the revision up to which nothing is missing (0: not told)."""
        events: list[pb.Event] = []
        while True:
            response = await self._read()
            self._check(response)
            events.extend(response.events)
            if response.fragment:
                continue
            if events:
                # The header's revision may be ahead of the events while a watcher catches up.
                return events, events[-1].kv.mod_revision
            if response.watch_id >= 0 and not response.created:
                return [], response.header.revision  # etcd's own progress notice; answers to our probes have id -1

    def _check(self, response: pb.WatchResponse) -> None:
        if response.compact_revision:
            raise RevisionGone(f"{self._what}: compacted up to revision {response.compact_revision}")
        if response.canceled:
            fault = fault_of_status(
                grpc.StatusCode.UNAVAILABLE, response.cancel_reason or "cancelled", self._what, self._line.endpoint
            )
            if fault.cure is Cure.LOGIN:
                self._calls.tokens.forget(self._metadata)
            raise fault.error

    async def _read(self) -> pb.WatchResponse:
        """The next message. Raises `StoreUnavailable` when even a probe is not answered."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        await asyncio.wait({self._reading}, timeout=PROBE_AFTER_S)
        if not self._reading.done():
            await self._write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            await asyncio.wait({self._reading}, timeout=self._silence_s())
        if not self._reading.done():
            raise self._silent()
        reading, self._reading = self._reading, None
        try:
            response = reading.result()
        except grpc.aio.AioRpcError as error:
            raise self._calls.judge(error, self._line, self._metadata, self._what).error from error
        except asyncio.CancelledError as error:  # of the stream, not of this task, which is not in an await here
            raise StoreUnavailable(f"{self._what}: the connection was closed") from error
        if not isinstance(response, pb.WatchResponse):
            raise StoreUnavailable(f"{self._what}: etcd {self._line.endpoint} ended the watch")
        return response

    async def _write(self, request: pb.WatchRequest) -> None:
        """Returns when it went out, or the stream has ended: reading says why."""
        writing = asyncio.ensure_future(self._call.write(request))
        over = asyncio.ensure_future(self._over.wait())  # before it went out, gRPC tells nobody who waits to write
        try:
            await asyncio.wait({writing, over}, timeout=self._silence_s(), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done() and not over.done():
                raise self._silent()
        finally:
            if not writing.done():
                self._call.cancel()
            await cancel_and_wait(writing, over)
        error = None if writing.cancelled() else writing.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            raise self._calls.judge(error, self._line, self._metadata, self._what).error from error
        if error is not None and not isinstance(error, asyncio.InvalidStateError):
            raise error

    def _silence_s(self) -> float:
        return _SILENT_TIMEOUTS * self._calls.config.request_timeout_s

    def _silent(self) -> StoreUnavailable:
        self._calls.transport.failed(self._line, timed_out=True)
        return StoreUnavailable(f"{self._what}: etcd {self._line.endpoint} accepts but does not answer")

    async def close(self) -> None:
        self._call.cancel()
        if self._reading is not None:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()  # nobody asks for what it read any more


@asynccontextmanager
async def open_stream(calls: Calls, prefix: str, history: History) -> AsyncIterator[WatchStream]:
    """A watch on the healthiest member that sends everything after `history.revision`."""
    what = f"watch {prefix}"
    async with calls.transport.line() as line:
        try:
            metadata = await calls.tokens.metadata(line)
            call = line.stream(wire.WATCH)(None, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise calls.judge(error, line, (), what).error from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            if calls.closed_under(error):
                raise calls.closed_meanwhile(what) from error
            raise
        stream = WatchStream(calls, line, call, metadata, what)
        try:
            await stream.create(prefix, history)
            yield stream
        finally:
            await stream.close()
