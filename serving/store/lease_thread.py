"""The thread behind a lease: takes it, renews it on a loop and a client of its own, gives it back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc.aio

from serving._proto import etcd_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import Code, FailedPrecondition, Internal, MeshError, StoreUnavailable
from serving.store import wire
from serving.store.calls import Calls, backoff_s
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_RENEW_AT: Final = 1 / 3  # of the time to live
_ATTEMPT: Final = 1 / 4  # of the time to live: several members can be tried before it is over
_LONGEST_WAIT: Final = 1 / 10
_UNSURE_S: Final = 0.5  # for giving back what was perhaps never given
_MAX_ID: Final = 2**62


def lease_clock() -> float:
    """Seconds that also pass while the machine sleeps, as they do for etcd."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseThread:
    """Used once. `on_end` is called from the thread, once, when the lease is no longer held for whatever reason."""

    def __init__(self, config: EtcdConfig, ttl_s: int, *, on_end: Callable[[], object]) -> None:
        self._config = config
        self._ttl_s = float(ttl_s)
        self._on_end = on_end
        self._granted: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="mesh-lease", daemon=True)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # guarded by _lock, as are the next two
        self._work: asyncio.Task[None] | None = None
        self._stop_asked = False
        self._revoke = False
        self._id = 0
        self._deadline = 0.0  # of lease_clock(): etcd keeps the lease at least until then

    # ------------------------------------------------------------------------------------------ called by the owner

    async def start(self) -> int:
        """Returns the lease's id, or raises why there is none."""
        self._thread.start()
        granted = asyncio.wrap_future(self._granted)
        granted.add_done_callback(_note_error)
        return await asyncio.shield(granted)

    def held(self) -> bool:
        return lease_clock() < self._deadline

    async def stop(self, *, revoke: bool) -> None:
        """Returns when the thread has ended. May be repeated."""
        with self._lock:
            self._revoke = revoke
            self._stop_asked = True
            if self._loop is not None and self._work is not None:
                self._loop.call_soon_threadsafe(self._work.cancel)
        await asyncio.shield(asyncio.wrap_future(self._ended))

    # --------------------------------------------------------------------------------------------- runs in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        finally:
            self._deadline = 0.0
            if not self._granted.done():
                self._granted.set_exception(self._why_none())
            with contextlib.suppress(RuntimeError):  # the owner's loop is closed: nobody is left to be told
                self._on_end()
            self._ended.set_result(None)

    def _why_none(self) -> MeshError:
        if self._stop_asked:
            return FailedPrecondition("this lease was given back before it was taken")
        return Internal("the thread of a lease ended before it had one")

    async def _live(self) -> None:
        calls = Calls(self._config)
        work = asyncio.ensure_future(self._take_and_hold(calls))
        with self._lock:
            self._loop, self._work = asyncio.get_running_loop(), work
            if self._stop_asked:
                work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        with self._lock:
            self._loop = None
        error = None if work.cancelled() else work.exception()
        if error is not None and not self._granted.done():
            self._granted.set_exception(error)
        elif error is not None:
            _LOG.error("lease ended by a fault", exc_info=error, extra={"lease": f"{self._id:x}"})
        elif self._revoke and self._id:  # also when it was stopped while etcd was asked for it
            await self._give_back(calls)
        await calls.close()

    async def _take_and_hold(self, calls: Calls) -> None:
        await self._take(calls)
        self._granted.set_result(self._id)
        failures = 0
        while self.held():
            held_until = self._deadline
            try:
                await self._renew_on_one_line(calls)
            except MeshError as error:
                if self._deadline > held_until:
                    failures = 0
                if failures == 0:  # the first of a row: the rest would say the same several times a second
                    _LOG.info("lease renewal failed", extra={"lease": f"{self._id:x}", "error": error.message})
                failures += 1
                await asyncio.sleep(min(backoff_s(failures), self._ttl_s * _LONGEST_WAIT))
        _LOG.warning("lease lost", extra={"lease": f"{self._id:x}", "ttl_s": self._ttl_s})

    async def _take(self, calls: Calls) -> None:
        """With an id of our own choice, so that a repeated request cannot take two leases."""
        self._id = secrets.randbelow(_MAX_ID) + 1
        asked_at = lease_clock()
        request = pb.LeaseGrantRequest(TTL=int(self._ttl_s), ID=self._id)
        try:
            response = await calls.call(wire.LEASE_GRANT, request, what="take a lease", repeat=True)
            self._ttl_s = float(response.TTL)
        except MeshError as error:
            if error.code is not Code.FAILED_PRECONDITION:  # "already exists": an attempt before got through
                raise
        self._deadline = asked_at + self._ttl_s
        if lease_clock() > asked_at + self._ttl_s * _RENEW_AT:
            await self._renew_late(calls)

    async def _renew_late(self, calls: Calls) -> None:
        """Taking it took long: whether it still lives is known only after a renewal."""
        self._deadline = lease_clock() + self._ttl_s * _ATTEMPT
        async with Renewals(calls) as renewals:
            self._accept(lease_clock(), await renewals.renew(self._id, self._ttl_s * _ATTEMPT))
        if not self.held():
            raise StoreUnavailable("etcd took longer to give a lease than the lease lives")

    async def _renew_on_one_line(self, calls: Calls) -> None:
        """Renews for as long as one endpoint answers; returns when the lease is over. Raises `MeshError` else."""
        async with Renewals(calls) as renewals:
            while True:
                await asyncio.sleep(max(0.0, self._deadline - self._ttl_s * (1 - _RENEW_AT) - lease_clock()))
                now = lease_clock()
                if now >= self._deadline:
                    return
                self._accept(now, await renewals.renew(self._id, min(self._ttl_s * _ATTEMPT, self._deadline - now)))

    def _accept(self, asked_at: float, ttl_s: int) -> None:
        self._deadline = asked_at + ttl_s if ttl_s > 0 else 0.0  # 0: etcd knows it no longer

    async def _give_back(self, calls: Calls) -> None:
        request = pb.LeaseRevokeRequest(ID=self._id)
        limit_s = min(self._ttl_s, 2 * self._config.request_timeout_s) if self.held() else _UNSURE_S
        try:
            await wait_for(
                calls.call(wire.LEASE_REVOKE, request, what=f"revoke lease {self._id:x}", repeat=True), limit_s
            )
        except (MeshError, asyncio.TimeoutError) as error:
            _LOG.info("lease not revoked, it runs out", extra={"lease": f"{self._id:x}", "error": str(error)})


def _note_error(granted: asyncio.Future[int]) -> None:
    """Where `start` was cancelled nobody asks for it, which asyncio would report as a fault."""
    if not granted.cancelled():
        granted.exception()


class Renewals:
    """One stream of renewals to one endpoint."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Renewals:
        self._line = await self._stack.enter_async_context(self._calls.transport.line())
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._call: Any = None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is not None:
            self._call.cancel()
        await self._stack.aclose()

    async def renew(self, lease: int, timeout_s: float) -> int:
        """The seconds that etcd gives from now, 0 when it no longer knows the lease. Raises `MeshError`."""
        what = f"renew lease {lease:x}"
        # A task of its own: gRPC takes a cancellation that comes while a stream ends for its own, and we would never
        # hear that we are to stop.
        exchange = asyncio.ensure_future(self._exchange(lease))
        try:
            await asyncio.wait({exchange}, timeout=timeout_s)
            if not exchange.done():
                raise self._failed(what, f"no answer within {timeout_s:.1f} s", timed_out=True)
            return exchange.result()
        except grpc.aio.AioRpcError as error:
            raise self._calls.judge(error, self._line, self._metadata, what).error from error
        except asyncio.InvalidStateError as error:
            raise self._failed(what, "the stream has ended", timed_out=False) from error
        finally:
            await cancel_and_wait(exchange)

    def _failed(self, what: str, why: str, *, timed_out: bool) -> StoreUnavailable:
        self._calls.transport.failed(self._line, timed_out=timed_out)
        return StoreUnavailable(f"etcd {self._line.endpoint}: {what}: {why}")

    async def _exchange(self, lease: int) -> int:
        if self._call is None:
            self._metadata = await self._calls.tokens.metadata(self._line)
            self._call = self._line.stream(wire.KEEP_ALIVE)(None, metadata=self._metadata)
        await self._call.write(pb.LeaseKeepAliveRequest(ID=lease))
        response = await self._call.read()
        if not isinstance(response, pb.LeaseKeepAliveResponse):
            raise asyncio.InvalidStateError
        self._calls.transport.succeeded(self._line)
        return int(response.TTL)
