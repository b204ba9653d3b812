"""What a runner does all day: holds a lease, takes the next batch while there is room, makes room for who waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from serving.batch.orders.claims import claim
from serving.batch.runner.attempts import Rests, goes_alone, reason_of
from serving.batch.runner.board import Board, Name
from serving.batch.runner.instruments import DONE, FAILED, RunnerInstruments
from serving.batch.runner.job import Halt, MakeJob
from serving.batch.runner.options import DEFAULT_MAX_ATTEMPTS
from serving.batch.runner.schedule import PRESSES_S, SLICE_S, Candidate, displaced, in_turn
from serving.batch.runner.work import FindModels, Work
from serving.control import Backoff
from serving.errors import Conflict, FailedPrecondition, MeshError
from serving.observe import get_logger
from serving.store.client import EtcdClient
from serving.store.lease import Lease
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = get_logger(__name__)
_LOOK_EVERY_S: Final = 0.2
_LOOK_S: Final = 1.0  # deadlines and slices pass without anybody writing
_LEASE_BACKOFF: Final = Backoff(first_s=0.2, limit_s=2.0, jitter=0.5)
_STUCK_S: Final = 120.0  # a job that is to stop and does not


@dataclass(frozen=True, slots=True)
class Identity:
    """`runner` is the id of its endpoint."""

    runner: str
    cluster: str
    namespaces: frozenset[str]
    concurrency: int
    lease_ttl_s: int
    batch_id: str = ""  # the only batch that it takes; empty: all but those of mode `own`
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


class Runner:
    """From `start` to `close`. Belongs to one event loop; its jobs run in threads of their own."""

    def __init__(
        self,
        store: EtcdClient,
        identity: Identity,
        make_job: MakeJob,
        find_models: FindModels,
        instruments: RunnerInstruments,
    ) -> None:
        self._store = store
        self._identity = identity
        self._make_job = make_job
        self._find_models = find_models
        self._instruments = instruments
        self._board = Board(store, identity.runner, identity.namespaces, self._changed, batch_id=identity.batch_id)
        self._threads = ThreadPoolExecutor(identity.concurrency + 1, thread_name_prefix="batch")
        self._lease: Lease | None = None
        self._works: dict[Name, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rests = Rests()
        self._waiting_since: dict[Name, float] = {}  # as seen here, in unix seconds
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loops: list[asyncio.Task[None]] = []
        self._refuses = False
        instruments.running.set_function(lambda: len(self._works))

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Returns at once, whether etcd answers or not."""
        await self._board.start()
        self._loops = [
            asyncio.create_task(self._hold(), name="runner-lease"),
            asyncio.create_task(self._take(), name="runner-take"),
        ]

    def refuse(self) -> None:
        """Takes nothing more, and puts back what runs: it goes on elsewhere from what is done."""
        self._refuses = True
        for name in self._works:
            self._ask(name, Halt.PUT_BACK)

    async def wait_idle(self) -> None:
        await self._idle.wait()

    @property
    def in_flight(self) -> int:
        """Batches that it works on. From any thread."""
        return len(self._works)

    def failure(self) -> str:
        """Why it needs to be replaced; empty: it is well."""
        for loop in self._loops:
            if loop.done() and not loop.cancelled():
                return f"{loop.get_name()} has ended: {loop.exception()!r}"
        now = time.monotonic()
        stuck = [name for name, work in self._works.items() if work.unheard_s(now) > _STUCK_S]
        return f"the job of batch {stuck[0][1]} does not stop" if stuck else ""

    async def close(self) -> None:
        """What still runs is cut off: its claims end with the lease, and what was committed stays."""
        self.refuse()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for loop in self._loops:
            await cancel_and_wait(loop)
        await self._board.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------ its lease

    async def _hold(self) -> None:
        failures = 0
        while True:
            lease = Lease(self._store.config, ttl_s=self._identity.lease_ttl_s)
            try:
                await lease.start()
                for work in tuple(self._works.values()):
                    await work.retake(lease.id)
                self._lease, failures = lease, 0
                self._wake.set()
                await lease.lost.wait()
                _LOG.warning("the lease of the claims was lost", running=len(self._works))
            except MeshError as error:
                failures += 1
                _LOG.warning("no lease for claims", reason=error.message, failures=failures)
                await asyncio.sleep(_LEASE_BACKOFF.delay_s(failures))
            finally:
                self._lease = None
                await lease.revoke()

    def _holds(self) -> bool:
        return self._lease is not None and self._lease.held()

    # ------------------------------------------------------------------------------------------------ taking

    def _changed(self, name: Name) -> None:
        """Of the board."""
        work = self._works.get(name)
        if work is not None:
            work.see(self._board.get(name))
        else:
            self._wake.set()

    async def _take(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._look()
            except MeshError as error:
                _LOG.warning("no batch was taken", reason=error.message)
            await asyncio.sleep(_LOOK_EVERY_S)  # many changes are one look
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._wake.wait(), _LOOK_S)
            self._wake.clear()

    async def _look(self) -> None:
        now = time.time()
        candidates = self._board.candidates({name: work.begun_at for name, work in self._works.items()}, now)
        used = self._board.used(now)
        waiting = {one.key for one in candidates if one.running_since is None}
        self._instruments.waiting.set(len(waiting))
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        if self._refuses or not self._holds() or not self._board.fresh:
            return
        if self._has_room():
            await self._fill(candidates, used, now)
        elif all(work.stop.why is None for work in self._works.values()):  # else there will be room
            self._make_room(candidates, used, now)

    def _has_room(self) -> bool:
        most = self._identity.max_attempts
        alone = any(goes_alone(work.claimed.status, most, under_way=True) for work in self._works.values())
        return len(self._works) < self._identity.concurrency and not alone

    async def _fill(self, candidates: list[Candidate], used: dict[str, float], now: float) -> None:
        for one in in_turn(candidates, used):
            if not self._has_room():
                return
            batch = self._board.get(one.key)
            if batch is None or one.key in self._works or self._rests.rests(one.key, batch, now):
                continue
            if not self._works or not goes_alone(batch.status, self._identity.max_attempts):
                await self._begin(one.key, now)
            elif self._presses(one.key, now):  # another runner may be empty; this one is to be, before others come
                self._make_empty(now)
                return

    def _make_empty(self, now: float) -> None:
        for name, work in self._works.items():
            if not work.finalizes and work.stop.why is None and now - work.begun_at >= SLICE_S:
                _LOG.info("batch makes room for one that runs alone", batch=name[1], tenant=name[0])
                self._ask(name, Halt.PUT_BACK)

    def _make_room(self, candidates: list[Candidate], used: dict[str, float], now: float) -> None:
        pressing = [one for one in candidates if one.running_since is not None or self._presses(one.key, now)]
        kept = {name for name, work in self._works.items() if work.finalizes}
        leaves = displaced(pressing, used, now, kept=kept)
        if leaves is not None and leaves.key in self._works:
            _LOG.info("batch makes room", batch=leaves.id, tenant=leaves.namespace)
            self._ask(leaves.key, Halt.PUT_BACK)

    def _presses(self, name: Name, now: float) -> bool:
        """It waits for room, and for nothing else."""
        waited = now - self._waiting_since.get(name, now) >= PRESSES_S
        return waited and not self._rests.rests(name, self._board.get(name), now)

    async def _begin(self, name: Name, now: float) -> None:
        batch, lease = self._board.get(name), self._lease
        if batch is None or lease is None:
            return
        who = self._identity
        try:
            job = self._make_job(batch.order)
        except MeshError as error:  # another runner may know its file store
            self._rests.not_here(name, batch, now)
            _LOG.error("a batch cannot be run here", batch=batch.id, tenant=batch.namespace, reason=error.message)
            return
        try:
            claimed = await claim(self._store, batch, runner=who.runner, cluster=who.cluster, lease=lease.id, now=now)
        except (Conflict, FailedPrecondition) as error:  # another runner was first; the board will show it
            _LOG.debug("batch not claimed", batch=batch.id, reason=error.message)
            return
        work = Work(
            claimed,
            job,
            self._find_models,
            self._instruments,
            self._threads,
            holds=self._holds,
            max_attempts=who.max_attempts,
        )
        self._works[name] = work
        work.see(self._board.get(name))  # what came since the claim found no work to tell
        self._idle.clear()
        task = asyncio.create_task(self._run(name, work), name=f"batch {batch.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refuses:
            self._ask(name, Halt.PUT_BACK)

    async def _run(self, name: Name, work: Work) -> None:
        try:
            why = await work.run()
            self._rests.went_well(name)
            self._instruments.jobs.labels(DONE if why is None else why.value).inc()
        except Exception as error:  # noqa: BLE001 - one batch's fault must not end the others
            self._instruments.jobs.labels(FAILED).inc()
            pause_s = self._rests.broke(name, self._board.get(name), work.broken, time.time())
            _LOG.error(
                "a batch's job failed",
                batch=name[1],
                tenant=name[0],
                epoch=work.claimed.epoch,
                reason=reason_of(error),
                attempts=work.broken,
                pause_s=round(pause_s, 1),
                exc_info=not isinstance(error, MeshError | OSError),
            )
            await work.put_back()
        finally:
            self._gone(name)

    def _ask(self, name: Name, why: Halt) -> None:
        self._works[name].stop.ask(why)

    def _gone(self, name: Name) -> None:
        del self._works[name]
        self._rests.keep(lambda one: self._board.get(one) is not None)
        if not self._works:
            self._idle.set()
        self._wake.set()
