"""A job: source → processor → sink, each row once, going on where an earlier run stopped."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from serving.batch.checkpoint import Batch, Checkpoint, Counts, DiskFull, Files, PartWriter
from serving.batch.checkpoint.parts import while_disk_is_full
from serving.batch.execution import Execution, Processor, pipeline
from serving.batch.progress import Progress, Rate
from serving.batch.sinks import Publication, Sink
from serving.batch.sources import Source
from serving.batch.steps import StepResources
from serving.errors import InvalidArgument
from serving.observe import get_logger

_LOG: Final = get_logger(__name__)
_T = TypeVar("_T")
_ROOM_BYTES: Final = 64 << 10  # less is a full disk
_TICK_S: Final = 0.25
_TELL_EVERY_S: Final = 1.0


class Stop(Protocol):
    """A `threading.Event`, or anything that is asked so."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class BatchDone:
    """A batch that is published. `key` is the same when it is told a second time, after a crash."""

    key: str
    number: int
    counts: Counts
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class JobReport:
    """`state`: finished or stopped. `counts`: of all runs; `computed`: rows of this one; `duplicates` were left out."""

    job: str
    state: str
    batches: int
    counts: Counts
    computed: int
    duplicates: int
    outputs: tuple[str, ...]
    seconds: float


def run_job(
    source: Source,
    processor: Processor,
    sink: Sink,
    folder: str | os.PathLike[str],
    *,
    commit_every_s: float = 5.0,
    commit_rows: int = 10_000,
    block_rows: int = 512,
    on_progress: Callable[[Progress], None] | None = None,
    on_batch: Callable[[BatchDone], None] | None = None,
    stop: Stop | None = None,
    disk_wait_s: float = 600.0,
    resources: StepResources | None = None,
) -> JobReport:
    """Runs until the source has ended or `stop` is set; blocks. Ray must be connected, `folder` shared with workers.

    `processor` takes a dataset and gives one with the same column `__row__`. Calling this again with the same source,
    sink and folder goes on from the last commit. `on_batch` is called at least once for each batch, before the job
    goes on: what it raises ends the job. Raises `Overtaken` where another run of the same folder has started since,
    `DiskFull` where the disk was full for `disk_wait_s`, and what the pipeline failed with. `resources` are
    those of the job's own steps; the source has its own.
    """
    if commit_every_s <= 0 or commit_rows < 1 or block_rows < 1 or disk_wait_s < 0:
        raise InvalidArgument("commit_every_s, commit_rows and block_rows must be above 0, disk_wait_s not below")
    settings = _Settings(commit_every_s, commit_rows, block_rows, disk_wait_s, resources or StepResources())
    return _Run(
        source, processor, sink, Files(folder), settings, on_progress, on_batch, stop or threading.Event()
    ).run()


@dataclass(frozen=True)
class _Settings:
    commit_every_s: float
    commit_rows: int
    block_rows: int
    disk_wait_s: float
    resources: StepResources


class _Run:
    def __init__(
        self,
        source: Source,
        processor: Processor,
        sink: Sink,
        files: Files,
        settings: _Settings,
        on_progress: Callable[[Progress], None] | None,
        on_batch: Callable[[BatchDone], None] | None,
        stop: Stop,
    ) -> None:
        self._source = source
        self._processor = processor
        self._sink = sink
        self._files = files
        self._settings = settings
        self._on_progress = on_progress
        self._on_batch = on_batch
        self._stop = stop
        if not Checkpoint.exists(files):
            sink.check(source.bounded)
        description = {"source": source.describe(), "sink": sink.describe()}
        self._checkpoint = Checkpoint(files, description, sink.part_format)
        self._rate = Rate()
        self._computed = Counts()
        self._total: int | None = None
        self._told = 0.0

    def run(self) -> JobReport:
        try:
            state = "finished" if self._go() else "stopped"
        except DiskFull:
            if not self._stop.is_set():
                raise
            state = "stopped"
        self._tell(state)
        done = self._checkpoint.state
        counts = self._counts()
        _LOG.info("a batch job ended", job=self._checkpoint.job, state=state, rows=counts.rows, errors=counts.errors)
        return JobReport(
            job=self._checkpoint.job,
            state=state,
            batches=done.batches,
            counts=counts,
            computed=self._computed.rows,
            duplicates=self._checkpoint.duplicates,
            outputs=tuple(done.outputs),
            seconds=self._rate.elapsed_s,
        )

    def _go(self) -> bool:
        """False: it was stopped."""
        checkpoint = self._checkpoint
        while not checkpoint.state.ended:
            if self._stop.is_set():
                return False
            batch = checkpoint.state.batch or self._next_batch()
            if batch is None:
                continue
            if not batch.finished:
                if not self._compute(batch):
                    return False
                self._patient(checkpoint.finish)
            self._publish(batch)
        return True

    def _next_batch(self) -> Batch | None:
        position = self._checkpoint.state.position
        plan = self._source.plan(position)
        if plan is not None:
            self._patient(lambda: self._checkpoint.begin(plan))
            return self._checkpoint.state.batch
        if self._source.ended(position):
            self._patient(self._checkpoint.end)
            return None
        self._tell_now_and_then("waiting")
        until = time.monotonic() + self._source.poll_s
        while time.monotonic() < until and not self._stop.is_set():
            time.sleep(min(_TICK_S, self._source.poll_s))
        return None

    def _compute(self, batch: Batch) -> bool:
        """All rows of a batch that are not finished. False: stopped on the way; what came is committed."""
        checkpoint, settings = self._checkpoint, self._settings
        self._total = self._source.rows(batch.plan)
        writer = PartWriter(
            str(self._files.root), batch.number, checkpoint.epoch, self._sink.part_format, settings.disk_wait_s
        )
        steps = pipeline(
            self._source.read(batch.plan),
            checkpoint.finished_path,
            self._processor,
            writer,
            block_rows=settings.block_rows,
            resources=settings.resources,
        )
        execution = Execution(steps)
        try:
            committed = time.monotonic()
            while not execution.ended and not self._stop.is_set():
                part = execution.next(_TICK_S)
                if part is not None:
                    self._computed += checkpoint.take(part).counts
                    self._rate.add(self._computed)
                due = time.monotonic() - committed >= settings.commit_every_s
                if due or checkpoint.pending.rows >= settings.commit_rows:
                    self._patient(checkpoint.commit)
                    checkpoint.still_ours()
                    committed = time.monotonic()
                    self._tell(self._state())
                self._tell_now_and_then(self._state())
            while self._stop.is_set() and (part := execution.next(0.0)) is not None:  # what came before the stop counts
                self._computed += checkpoint.take(part).counts
        finally:
            execution.close()
        self._patient(checkpoint.commit)
        return execution.ended

    def _state(self) -> str:
        """Of work that goes on: workers that wait for room on the disk cannot say so themselves."""
        return "disk_full" if shutil.disk_usage(self._files.root).free < _ROOM_BYTES else "running"

    def _publish(self, batch: Batch) -> None:
        checkpoint = self._checkpoint
        self._tell("publishing")
        counts = batch.counts
        publication = Publication(
            checkpoint.job, batch.number, checkpoint.epoch, self._files, batch.parts, checkpoint.still_ours
        )
        outputs = self._patient(lambda: self._sink.publish(publication))
        if self._on_batch is not None:
            key = f"{checkpoint.job}-{batch.number}"
            self._on_batch(BatchDone(key, batch.number, counts, tuple(outputs)))
        position = self._source.advance(checkpoint.state.position, batch.plan)
        self._patient(lambda: checkpoint.published(position, outputs))
        self._total = 0  # of the batch under way

    def _patient(self, step: Callable[[], _T]) -> _T:
        """A step that is tried again while the disk is full."""
        return while_disk_is_full(step, self._settings.disk_wait_s, pause=self._pause_for_disk)

    def _pause_for_disk(self, seconds: float, detail: str) -> None:
        if self._stop.is_set():
            raise DiskFull(f"the job was stopped while it waited: {detail}")
        self._tell("disk_full", detail)
        time.sleep(seconds)

    def _counts(self) -> Counts:
        state = self._checkpoint.state
        return state.published + (state.batch.counts if state.batch is not None else Counts())

    def _tell_now_and_then(self, state: str) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._tell(state)

    def _tell(self, state: str, detail: str = "") -> None:
        self._told = time.monotonic()
        if self._on_progress is None:
            return
        counts = self._counts()
        rows_per_s, tokens_per_s = self._rate.per_second()
        batch = self._checkpoint.state.batch
        within = batch.counts.rows if batch is not None else 0
        total = None if self._total is None else self._checkpoint.state.published.rows + self._total
        left = None if self._total is None or not rows_per_s else max(0, self._total - within) / rows_per_s
        self._on_progress(
            Progress(
                job=self._checkpoint.job,
                state=state,
                batch=batch.number if batch is not None else self._checkpoint.state.batches,
                rows=counts.rows,
                pending=self._checkpoint.pending.rows,
                total=total,
                errors=counts.errors,
                prompt_tokens=counts.prompt_tokens,
                completion_tokens=counts.completion_tokens,
                cached_tokens=counts.cached_tokens,
                rows_per_s=rows_per_s,
                tokens_per_s=tokens_per_s,
                left_s=left,
                elapsed_s=self._rate.elapsed_s,
                detail=detail,
            )
        )
