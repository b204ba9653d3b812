"""One batch under one claim: check, run, publish, with its status told on the way, until it ends or is let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import ENDED_STATES, Batch, seconds
from serving.batch.orders.claims import Claimed, ClaimEnded, ClaimLost
from serving.batch.runner.attempts import ModelAway, fault, is_broken, reason_of, told
from serving.batch.runner.instruments import RunnerInstruments
from serving.batch.runner.job import Checked, Counts, Halt, Job, Published, Stop
from serving.control import Backoff
from serving.errors import (
    DataLoss,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    StoreUnavailable,
)
from serving.gateway.catalog import ModelKey
from serving.observe import get_logger
from serving.stamps import stamp
from serving.timeouts import cancel_and_wait

T = TypeVar("T")
_LOG: Final = get_logger(__name__)
_TELL_S: Final = 1.0
_BACKOFF: Final = Backoff(first_s=0.2, limit_s=5.0, jitter=0.5)
_END_STATES: Final[dict[Halt | None, pb.BatchState]] = {
    None: pb.COMPLETED,
    Halt.CANCELLED: pb.CANCELLED_BATCH,
    Halt.EXPIRED: pb.EXPIRED_WINDOW,
}


class FindModels(Protocol):
    """Which models the names of a batch's lines mean."""

    async def __call__(self, order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:
        """Raises `NotFound` for a name that nobody serves or is to serve, `InvalidArgument` for one that means several
        models, `PermissionDenied` for one that the key may not ask; `ModelAway`."""


class Work:
    """Belongs to one event loop, its job to a thread. `stop` and `begun_at` may be read by whoever gives out work."""

    def __init__(
        self,
        claimed: Claimed,
        job: Job,
        find_models: FindModels,
        instruments: RunnerInstruments,
        threads: ThreadPoolExecutor,
        *,
        holds: Callable[[], bool],
        max_attempts: int,
    ) -> None:
        """`holds`: the runner's lease is surely there, so that a claim that is not found was taken.

        After `max_attempts` that broke one after the other without progress the batch is given up.
        """
        self.claimed = claimed
        self.stop = Stop()
        self.begun_at = time.time()
        self._job = job
        self._find_models = find_models
        self._instruments = instruments
        self._threads = threads
        self._holds = holds
        self._max_attempts = max_attempts
        self._broke = False
        self._job_runs = False  # in its thread
        self._writing = asyncio.Lock()
        self._counts = self._told = _counts_of(claimed.status)  # the former is set by the job's thread
        order = claimed.batch.order
        self._log: dict[str, Any] = {"batch": order.id, "tenant": order.namespace, "epoch": claimed.epoch}
        self._status = pb.BatchStatus()
        self._status.CopyFrom(claimed.status)

    # ------------------------------------------------------------------------------------------------ from outside

    def unheard_s(self, now: float) -> float:
        """How long its job runs on although it was asked to stop; `now` is of `time.monotonic`.

        What comes after the job takes its time: the making of the output, and writes while etcd is away.
        """
        asked_at = self.stop.asked_at
        return now - asked_at if self._job_runs and asked_at is not None else 0.0

    @property
    def finalizes(self) -> bool:
        """Its output is being made: to put it back now saves no time."""
        return self._status.state == pb.FINALIZING

    @property
    def broken(self) -> int:
        """Attempts that broke one after the other, where the one of this claim did; else 0."""
        return int(self._status.attempts) if self._broke else 0

    def see(self, batch: Batch | None) -> None:
        """What the store shows now. None: it has ended, or is gone."""
        claim = None if batch is None else batch.claim
        if claim is not None and claim.epoch > self.claimed.epoch:
            self.stop.ask(Halt.LOST)
        elif batch is not None and batch.cancel is not None:
            self.stop.ask(Halt.CANCELLED)

    async def retake(self, lease: int) -> None:
        """The runner has another lease. Raises `StoreUnavailable`."""
        async with self._writing:
            try:
                await self.claimed.retake(lease)
            except ClaimLost as error:
                _LOG.warning("batch lost", **self._log, reason=error.message)
                self.stop.ask(Halt.LOST)

    # ------------------------------------------------------------------------------------------------ its life

    async def run(self) -> Halt | None:
        """Until the batch has ended (None, or `GIVEN_UP`), or is let go. Raises what another attempt may mend."""
        self.see(self.claimed.batch)
        given_up = False
        try:
            given_up = await self._try()
        except ClaimLost as error:
            self.stop.ask(Halt.LOST)
            _LOG.warning("batch lost", **self._log, reason=error.message)
        if self.claimed.status.state in ENDED_STATES:
            return Halt.GIVEN_UP if given_up else None
        why = self.stop.why
        if why is Halt.PUT_BACK:
            await self.put_back()
        return why if why in (Halt.PUT_BACK, Halt.LOST) else None

    async def put_back(self) -> None:
        """Gives the claim back with the counts so far, for whoever goes on."""
        try:
            status = self._with_counts()
            if not self._broke:
                status.attempts = max(0, status.attempts - 1)
            await self._write(status)
            async with self._writing:
                await self.claimed.release()
        except (ClaimLost, StoreUnavailable) as error:
            _LOG.warning("the claim runs out with its lease", **self._log, reason=error.message)

    async def _try(self) -> bool:
        """Whether it was given up."""
        if self._status.attempts > self._max_attempts:  # runners died of it
            self._broke = True
            await self._give_up(self._status.attempts - 1)
            return True
        try:
            await self._run()
        except ClaimLost:
            raise
        except Exception as error:
            self._broke = is_broken(error)
            if not self._broke:
                raise
            self._status.last_failure = told(error, self.claimed.epoch)
            if self._status.attempts < self._max_attempts:
                raise
            unknown = not isinstance(error, MeshError | OSError)
            _LOG.error("the last attempt broke", **self._log, reason=reason_of(error), exc_info=unknown)
            await self._give_up(self._status.attempts)
            return True
        return False

    async def _run(self) -> None:
        checked = await self._check()
        if self._leaves:
            return
        if checked.errors:
            await self._refuse(checked)
            return
        models = {}
        if self.stop.why is None:
            try:
                models = await self._find(checked)
                if self._leaves:  # nothing was found out: it is not begun, and may still be refused
                    return
            except (NotFound, InvalidArgument, PermissionDenied) as error:
                if self._status.HasField("in_progress_at"):  # it was there: what is done is not thrown away
                    raise ModelAway(f"a model of the batch is away: {error.message}") from error
                fault = pb.BatchLineError(code="model_not_found", message=error.message, param="body.model")
                await self._refuse(Checked(checked.total, checked.models, [fault], 1))
                return
        await self._begin(checked)
        if self.stop.why is None:
            await self._run_job(models)
        if not self._leaves:
            await self._publish()

    async def _check(self) -> Checked:
        try:
            return await self._blocking(self._job.check)
        except DataLoss as error:  # no attempt, here or elsewhere, brings it back
            _LOG.error("the input of a batch is lost", **self._log, reason=error.message)
            told = f"the content of {self.claimed.batch.order.input_file} is gone or damaged: send the file again"
            fault = pb.BatchLineError(code="input_file_damaged", message=told, param="input_file_id")
            return Checked(0, errors=[fault], error_count=1)

    async def _run_job(self, models: dict[str, ModelKey]) -> None:
        self._job_runs = True
        try:
            await self._blocking(lambda: self._job.run(models, self._note, self.stop.event))
        finally:
            self._job_runs = False

    @property
    def _leaves(self) -> bool:
        return self.stop.why in (Halt.PUT_BACK, Halt.LOST)

    def _note(self, counts: Counts) -> None:
        """Called by the job's thread."""
        self._counts = counts

    async def _find(self, checked: Checked) -> dict[str, ModelKey]:
        """Empty where the batch is to stop before it is known."""
        finding = asyncio.ensure_future(self._find_models(self.claimed.batch.order, checked.models))
        try:
            await self._telling(finding, until_stop=True)
            return finding.result() if finding.done() else {}
        finally:
            await cancel_and_wait(finding)

    async def _blocking(self, step: Callable[[], T]) -> T:
        """The step's answer; while it runs in its thread the status is told. A step is not torn apart: it stops."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, step)
        try:
            await self._telling(future)
        except asyncio.CancelledError:
            self.stop.ask(Halt.PUT_BACK)
            raise
        return await future

    async def _telling(self, future: asyncio.Future[Any], *, until_stop: bool = False) -> None:
        """Until it is done, however it ends; with `until_stop` also when the batch is to stop."""
        while not future.done() and not (until_stop and self.stop.why is not None):
            await asyncio.wait({future}, timeout=_TELL_S)
            if time.time() >= seconds(self.claimed.batch.order.expires_at):
                self.stop.ask(Halt.EXPIRED)
            if self._counts != self._told:
                await self._tell()

    async def _tell(self) -> None:
        try:
            await self._write(self._with_counts())
        except ClaimLost as error:
            self.stop.ask(Halt.LOST)
            _LOG.warning("batch lost", **self._log, reason=error.message)
        except StoreUnavailable as error:
            _LOG.warning("status not written", **self._log, reason=error.message)

    # ------------------------------------------------------------------------------------------------ its status

    def _with_counts(self) -> pb.BatchStatus:
        counts = self._counts
        self._instruments.progress(self._told, counts)
        status = self._status
        if counts.completed + counts.failed > self._told.completed + self._told.failed:
            status.attempts = 1
            status.ClearField("last_failure")
        self._told = counts
        status.total = counts.total or status.total
        for name in ("completed", "failed", "prompt_tokens", "completion_tokens", "cached_tokens"):
            setattr(status, name, max(getattr(counts, name), 0))
        return status

    async def _begin(self, checked: Checked) -> None:
        status = self._status
        status.state, status.total = pb.IN_PROGRESS, checked.total
        status.model = checked.models[0] if len(checked.models) == 1 else ""
        if not status.HasField("in_progress_at"):
            status.in_progress_at.CopyFrom(stamp(time.time()))
        await self._surely(status)
        _LOG.info("batch begun", **self._log, lines=checked.total, models=list(checked.models))

    async def _refuse(self, checked: Checked) -> None:
        """The input cannot be run."""
        status = self._status
        status.state, status.total, status.error_count = pb.FAILED_VALIDATION, 0, checked.error_count
        status.errors.extend(checked.errors)
        status.attempts = 0
        status.ended_at.CopyFrom(stamp(time.time()))
        await self._surely(status)
        await self._blocking_quietly(self._job.discard)

    async def _publish(self) -> None:
        status = self._status
        status.state = pb.FINALIZING
        status.finalizing_at.CopyFrom(stamp(time.time()))
        await self._surely(status)
        if self._leaves:  # asked while that was written: whoever goes on publishes
            return
        why = self.stop.why
        published = await self._blocking(lambda: self._job.publish(why))
        await self._end(_end_state(why, published.counts), published)

    async def _end(self, state: pb.BatchState, published: Published, *, broken: int = 0) -> None:
        """`broken`: attempts, of a batch that is given up."""
        self._counts = published.counts
        status = self._with_counts()
        status.state, status.attempts = state, broken
        if not broken:
            status.ClearField("last_failure")
        status.output_file, status.error_file = published.output_file, published.error_file
        status.ended_at.CopyFrom(stamp(time.time()))
        try:
            await self._surely(status, published.files)
        except ClaimLost:
            await self._blocking_quietly(lambda: self._job.unpublish(published))
            raise
        await self._blocking_quietly(self._job.discard)

    async def _give_up(self, broken: int) -> None:
        """After `broken` attempts. What is done is published, where that goes."""
        status = self._status
        status.errors.append(fault(status, broken))
        status.error_count = len(status.errors)
        _LOG.error("batch given up", **self._log, attempts=broken, reason=status.errors[-1].message)
        await self._end(pb.FAILED_VALIDATION, await self._what_is_done(), broken=broken)

    async def _what_is_done(self) -> Published:
        """Nothing where that cannot be published, or runners died of it."""
        nothing = Published(self._counts)
        if not self._status.HasField("in_progress_at") or self._status.attempts > self._max_attempts + 1:
            return nothing
        try:
            if (await self._check()).errors:
                return nothing
            return await self._blocking(lambda: self._job.publish(Halt.GIVEN_UP))
        except ClaimLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is: the batch ends now
            _LOG.error("what is done of a batch cannot be published", **self._log, reason=reason_of(error))
            return nothing

    async def _surely(self, status: pb.BatchStatus, files: Sequence[pb.FileRecord] = ()) -> None:
        """Writes it, however long etcd is away. Raises `ClaimLost`."""
        failures = 0
        while True:
            try:
                await self._write(status, files)
                return
            except StoreUnavailable as error:
                failures += 1
                _LOG.warning("status not written", **self._log, reason=error.message, failures=failures)
                await asyncio.sleep(_BACKOFF.delay_s(failures))

    async def _write(self, status: pb.BatchStatus, files: Sequence[pb.FileRecord] = ()) -> None:
        """Without a lease that holds nothing can be written: raises `StoreUnavailable`. Raises `ClaimLost`."""
        if self.stop.why is Halt.LOST:
            raise ClaimLost("another runner has the batch")
        async with self._writing:
            if not self._holds():
                raise StoreUnavailable("the runner has no lease now")
            try:
                await self.claimed.write(status, files)
            except ClaimEnded as error:
                if self._holds():
                    raise
                raise StoreUnavailable(f"while it was written the runner's lease ended: {error.message}") from error

    async def _blocking_quietly(self, step: Callable[[], object]) -> None:
        """What is left behind costs room only."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, step)
        except (MeshError, OSError) as error:
            _LOG.warning("files of a batch were left behind", **self._log, reason=str(error))


def _end_state(why: Halt | None, counts: Counts) -> pb.BatchState:
    """The last line may have come with the end of the window."""
    if why is Halt.EXPIRED and counts.completed + counts.failed == counts.total:
        return pb.COMPLETED
    return _END_STATES[why]


def _counts_of(status: pb.BatchStatus) -> Counts:
    return Counts(
        status.total,
        status.completed,
        status.failed,
        status.prompt_tokens,
        status.completion_tokens,
        status.cached_tokens,
    )
