"""One replica of a Python deployment: the life of its process from its packages to the end of its last request.

States, as in `ReplicaReport`: preparing → loading → ready ⇄ unhealthy → draining → drained; failed ends the first two.
Its C++ twin is cpp_ext/deployment/replica.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Protocol, TypeVar

from serving._proto import records_pb2 as pb
from serving.broker.puller.pulling import Pulling
from serving.broker.puller.run import PullEntry
from serving.errors import MeshError
from serving.observe import configure_logging
from serving.python_deployment import environment, settings
from serving.python_deployment.failure import described
from serving.python_deployment.stack import Stack
from serving.store.records import encode
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_MAX_DRAIN_S: Final = 24 * 3600.0
_SLICE_S: Final = 0.1
_ENDS: Final = ("draining", "drained")


class Parts(Protocol):
    """What a replica is made of once it comes up. Belongs to the loop that serves; see `Stack`."""

    def describe(self, report: pb.ReplicaReport) -> None: ...

    async def listen(self) -> pb.ReplicaReport: ...

    async def reconfigure(self, text: str) -> None: ...

    async def register(self, report: pb.ReplicaReport) -> None: ...

    def pull_entry(self) -> PullEntry | None: ...

    async def watch_health(self, tell: Callable[[str], None]) -> None: ...

    async def withdraw(self) -> bool: ...

    def refuse(self) -> None: ...

    async def wait_idle(self, limit_s: float) -> bool: ...

    async def close(self, left_s: Callable[[], float]) -> None: ...


P = TypeVar("P", bound=Parts)


class Replica:
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    # After the endpoint has left discovery, watchers need a moment to hear of it; until then requests are still taken.
    leave_s: ClassVar[float] = 0.3

    def __init__(self, config: pb.ReplicaConfig, *, node_address: str = "", on_drained: Callable[[], None]) -> None:
        """`on_drained` is called on the replica's thread when nothing runs any more."""
        self._config = config
        self._node_address = node_address
        self._on_drained = on_drained
        self._lock = threading.RLock()  # a signal may come while its own thread holds it
        self._report = pb.ReplicaReport(id=config.id, state="preparing", pid=os.getpid(), revision=config.revision)
        self._update: pb.ReplicaUpdate | None = None
        self._drain_until: float | None = None
        self._loop = self._new_loop()
        self._wake = asyncio.Event()  # of the loop: an update or a drain is asked for
        self._stack: Parts | None = None
        self._pulling: Pulling | None = None
        self._thread = threading.Thread(target=self._serve, name="replica", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ------------------------------------------------------------------------------------------------ from any thread

    def report(self, refused: str = "") -> str:
        """`report_record` in canonical JSON. `refused`: why the call that it answers did nothing."""
        report = self.report_record()
        report.refused = refused
        return encode(report).decode()

    def report_record(self) -> pb.ReplicaReport:
        """How it is now; a copy."""
        with self._lock:
            report = pb.ReplicaReport()
            report.CopyFrom(self._report)
            stack = self._stack
        if stack is not None:
            stack.describe(report)
        return report

    def drain(self, limit_s: float) -> None:
        """Leaves discovery, refuses new requests, finishes the running ones for at most `limit_s`.

        A repetition can only shorten the limit.
        """
        until = time.monotonic() + min(max(limit_s, 0.0), _MAX_DRAIN_S)
        with self._lock:
            if self._drain_until is not None and self._drain_until <= until:
                return
            self._drain_until = until
        self._notify()

    def update(self, update: pb.ReplicaUpdate) -> str:
        """Calls `reconfigure` with the update's config. Returns why it takes none; empty when it does."""
        config = self._config
        with self._lock:
            report = self._report
            if (update.id, update.generation) != (config.id, config.generation):
                return (
                    f"the update is for replica {update.id} of generation {update.generation}, this is {config.id} of "
                    f"{config.generation}"
                )
            if self._drain_until is not None or report.state == "failed":
                return f"the replica is {report.state} and takes no update"
            if update.revision in (report.updating_to, 0 if report.updating_to else report.revision):
                return ""
            report.updating_to = update.revision
            self._update = update
        self._notify()
        return ""

    @property
    def drained(self) -> bool:
        return self._report.state == "drained"

    def stop(self) -> None:
        """As `drain(0)`, and waits for the end."""
        self.drain(0.0)
        self._thread.join()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: everything has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    # ------------------------------------------------------------------------------------------------ on its own thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        try:
            if await self._unless_draining(self._become_ready()):
                await self._live()
        except MeshError as error:
            await self._fail(error.message)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: the report says it
            _LOG.exception("the replica ended with an error")
            await self._fail(f"the replica ended with an error: {described(error)}")
        await self._leave()

    async def _unless_draining(self, work: Coroutine[Any, Any, None]) -> bool:
        """True when the work has ended well, False when the replica is to leave first. Raises what the work raised."""
        task = asyncio.ensure_future(work)
        drained = asyncio.ensure_future(self._wait_for_drain())
        try:
            await asyncio.wait({task, drained}, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                return False
            await task
            return True
        finally:
            for one in (task, drained):
                one.cancel()
            await asyncio.gather(task, drained, return_exceptions=True)

    async def _wait_for_drain(self) -> None:
        while self._drain_until is None:
            await self._wake.wait()
            self._wake.clear()

    async def _become_ready(self) -> None:
        self._begin_log()
        began = time.monotonic()
        await self._announce(await self._load(), began)

    async def _load(self) -> Parts:
        """Makes and loads what the replica is made of: what differs from kind to kind. Gives it to `_hold` at once."""
        config = self._config
        folders = await asyncio.to_thread(environment.prepare, config)
        environment.enter(folders)
        if config.python.HasField("code"):
            os.chdir(folders[0])
        self._step("loading")
        stack = self._hold(Stack(config, self._node_address))
        await stack.load()
        update = self._take_update()  # of a process that was started again: it should not serve what is out of date
        await stack.reconfigure(update.config if update is not None else config.python.config)
        if update is not None:
            self._note_update(update, "")
        await stack.wait_healthy()
        return stack

    def _hold(self, parts: P) -> P:
        """What they hold is released when the replica leaves, also when it does not come up."""
        self._stack = parts
        return parts

    async def _announce(self, parts: Parts, began: float) -> None:
        """The last steps to readiness: listens, then says so in discovery."""
        listening = await parts.listen()
        with self._lock:
            self._report.MergeFrom(listening)
        await parts.register(self._report)
        self._step("ready")
        entry = parts.pull_entry()
        if entry is not None:
            self._pulling = Pulling(self._config, entry)
            self._pulling.start()
        _LOG.info("replica ready", extra={"address": self._report.address, "took_s": time.monotonic() - began})

    def _begin_log(self) -> None:
        config = self._config
        keys = settings.log_keys(config, config.revision)
        configure_logging(level=config.log_level, file=settings.log_file(config), style="json", **keys)  # type: ignore[arg-type]
        logging.getLogger("grpc").setLevel(logging.INFO)  # below it, it tells of every loop
        _LOG.info("replica starts", extra={"pid": os.getpid(), "cluster": config.cluster})

    async def _live(self) -> None:
        """Until it is to leave."""
        assert self._stack is not None
        watching = asyncio.create_task(self._stack.watch_health(self._take_verdict))
        try:
            while self._drain_until is None:
                update = self._take_update()
                if update is not None:
                    await self._unless_draining(self._apply(update, self._stack))
                    continue
                await self._wake.wait()
                self._wake.clear()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _apply(self, update: pb.ReplicaUpdate, stack: Parts) -> None:
        failure = ""
        try:
            await stack.reconfigure(update.config)
        except MeshError as error:
            failure = error.message
            _LOG.error("update failed", extra={"to_revision": update.revision, "reason": failure})
        self._note_update(update, failure)
        if not failure:
            await stack.register(self._report)
            _LOG.info("update done", extra={"to_revision": update.revision})

    def _take_update(self) -> pb.ReplicaUpdate | None:
        with self._lock:
            update, self._update = self._update, None
        return update

    def _note_update(self, update: pb.ReplicaUpdate, failure: str) -> None:
        with self._lock:
            report = self._report
            report.updating_to = self._update.revision if self._update is not None else 0
            report.failed_revision = update.revision if failure else 0
            report.failed_reason = failure
            report.failed_updates += bool(failure)
            if not failure:
                report.revision = update.revision

    def _take_verdict(self, reason: str) -> None:
        """Of the health checks: empty is well."""
        if self._report.state in ("ready", "unhealthy"):
            self._step("unhealthy" if reason else "ready", reason)
            if self._pulling is not None:
                self._pulling.set_well(not reason)

    async def _fail(self, reason: str) -> None:
        _LOG.error("replica failed", extra={"reason": reason})
        self._step("failed", reason)
        await self._wait_for_drain()

    async def _leave(self) -> None:
        """Leave discovery, stop accepting, finish what runs, release: always in this order."""
        if self._report.state != "failed":
            self._step("draining")
        stack, pulling = self._stack, self._pulling
        if pulling is not None:
            pulling.drain()
        if stack is not None:
            if await stack.withdraw():
                await self._linger()
            stack.refuse()
            while not await self._is_idle(stack):  # in slices: a second drain may shorten it
                if self._left_s() <= 0:
                    break
            if pulling is not None:
                await pulling.close()
            await stack.close(self._left_s)
        _LOG.info("replica drained")
        self._step("drained")
        self._on_drained()

    async def _is_idle(self, stack: Parts) -> bool:
        """Nothing runs, and what brokers are to know is stored. Waits a slice of time for it."""
        if not await stack.wait_idle(min(_SLICE_S, self._left_s())):
            return False
        return self._pulling is None or await self._pulling.wait_idle(min(_SLICE_S, self._left_s()))

    async def _linger(self) -> None:
        end = time.monotonic() + self.leave_s
        while (left := min(end - time.monotonic(), self._left_s())) > 0:
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._wake.wait(), left)

    def _left_s(self) -> float:
        return max(0.0, (self._drain_until or 0.0) - time.monotonic())

    def _step(self, state: str, reason: str = "") -> None:
        with self._lock:
            if self._report.state in _ENDS and state not in _ENDS:
                return
            unchanged = (self._report.state, self._report.reason) == (state, reason)
            self._report.state = state
            self._report.reason = reason
        if unchanged:
            return
        _LOG.debug("state entered", extra={"state": state})
