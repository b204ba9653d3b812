"""A batch of `/v1/batches` as a job: its input's lines through the models of the mesh, each answered once.

`jobs/<namespace>/<batch>/` of the file store holds what was done, for whoever goes on: `checkpoint/`, and
`answers.jsonl` when the answers are collected.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serving._proto import batch_pb2 as pb
from serving.batch.checking import check_input
from serving.batch.checkpoint import Checkpoint, Files, Overtaken
from serving.batch.execution import Processor
from serving.batch.job import run_job
from serving.batch.orders.batch import seconds
from serving.batch.orders.claims import ClaimLost
from serving.batch.processor import LLMProcessor
from serving.batch.progress import Progress
from serving.batch.runner.job import Checked, Counts, Halt, Published
from serving.batch.runner.lines import LIGHT, Answered, AnswerLines, RequestLines, expired_line
from serving.batch.sending.places import Discovered
from serving.batch.sending.settings import SenderConfig
from serving.batch.sinks import JsonlSink, Publication
from serving.batch.stages.settings import RAW_TASK, ProcessorConfig
from serving.batch.store.content import Content, ContentStore, Writing, told
from serving.batch.store.files import OUTPUT, file_record, new_file_id
from serving.errors import DataLoss, FailedPrecondition, Unavailable
from serving.gateway.catalog import ModelKey
from serving.observe import get_logger
from serving.routing import RetryBudgetConfig

if TYPE_CHECKING:
    from ray.data import Dataset

_LOG: Final = get_logger(__name__)
_COMMIT_S: Final = 2.0  # so much is done again after a crash, and clients see counts so late
_MAX_BLOCK: Final = 64  # lines that are committed together
_BLOCKS: Final = 16  # into which a small batch is divided, so that its counts move
_AT_SENDER: Final = 1024  # lines on their way in one worker, about
_SILENCE_S: Final = 1800.0  # an endpoint may let the lowest class wait so long for an answer
_BUDGET: Final = RetryBudgetConfig(share=1.0, min_per_s=10.0, capacity=4096.0)
_ATTEMPTS: Final = 8
_BUFFER_BYTES: Final = 1 << 20
FindInput = Callable[[str, str], "pb.FileRecord | None"]  # namespace, id of the file; blocks


@dataclass(frozen=True, slots=True)
class Sending:
    """Where a job's requests go, and how many processes send them."""

    mesh: Discovered
    workers: int


class BatchJob:
    """See `Job`. `check` is called first."""

    def __init__(self, order: pb.BatchOrder, find_input: FindInput, sending: Sending) -> None:
        """Raises `InvalidArgument`, `NotSupported` for a file store that is no folder."""
        self._order = order
        self._find_input = find_input
        self._sending = sending
        self._store = ContentStore(order.store)
        self._folder = self._store.work_folder(order.namespace, order.id)
        self._sink = JsonlSink(self._folder / "answers.jsonl")
        self._files = Files(self._folder / "checkpoint")
        self._input: Path | None = None
        self._total = 0

    # ------------------------------------------------------------------------------------------------ before it

    def check(self) -> Checked:
        order = self._order
        record = self._find_input(order.namespace, order.input_file)
        if record is None:
            fault = pb.BatchLineError(
                code="input_file_not_found", message=f"the file {order.input_file} is not there", param="input_file_id"
            )
            return Checked(0, errors=[fault], error_count=1)
        path = self._store.path(record.uri)
        with told(str(path)):
            if not path.parent.parent.is_dir():  # then nothing can be said of the file
                raise Unavailable(f"the file store {self._store.folder} is not there: is it mounted on this node?")
        with self._store.open(record.uri, record.bytes) as file, told(record.uri):
            report = check_input(file, order.endpoint)
        self._input, self._total = path, report.total
        return Checked(report.total, report.models, report.faults, report.fault_count)

    # ------------------------------------------------------------------------------------------------ its lines

    def run(self, models: dict[str, ModelKey], tell: Callable[[Counts], None], stop: threading.Event) -> None:
        block = max(1, min(_MAX_BLOCK, self._total // (_BLOCKS * self._sending.workers)))
        infer = LLMProcessor(self._processing(block))
        with told(str(self._folder)):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with fenced():
            try:
                report = run_job(
                    self._source(models),
                    self._processor(infer),
                    self._sink,
                    self._files.root,
                    commit_every_s=_COMMIT_S,
                    block_rows=block,
                    on_progress=lambda progress: tell(self._counts_of(progress)),
                    stop=stop,
                    resources=LIGHT,
                )
                limits = infer.report()
            finally:
                infer.forget()
        _LOG.info(
            "a batch's lines were run",
            batch=self._order.id,
            tenant=self._order.namespace,
            state=report.state,
            lines=report.counts.rows,
            computed=report.computed,
            took_s=round(report.seconds, 1),
            limited_by=limits.stage,
            why=limits.why,
        )

    def _source(self, models: dict[str, ModelKey]) -> RequestLines:
        if self._input is None:
            raise FailedPrecondition(f"batch {self._order.id} was not checked")
        return RequestLines(self._input, {name: str(key) for name, key in models.items()})

    def _processing(self, block: int) -> ProcessorConfig:
        left_s = max(60.0, seconds(self._order.expires_at) - time.time())
        sender = SenderConfig(
            budget=_BUDGET,
            max_attempts=_ATTEMPTS,
            tranche=block,  # blocks end one after the other, and with them goes the count of what is done
            timeout_s=_SILENCE_S,
            patience_s=left_s,  # lines may wait until the window is over: then the job is stopped
            unknown_model_s=left_s,
        )
        return ProcessorConfig(
            self._sending.mesh,
            task=RAW_TASK,
            concurrency=self._sending.workers,
            batch_size=block,
            max_concurrent_batches=max(4, min(64, _AT_SENDER // block)),
            num_cpus=LIGHT.cpus,
            sender=sender,
        )

    def _processor(self, infer: LLMProcessor) -> Processor:
        lines = AnswerLines(self._order.id)

        def process(rows: Dataset) -> Dataset:
            answered = infer(rows)
            return answered.map_batches(
                lines.__call__, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **LIGHT.options()
            )

        return process

    def _counts_of(self, progress: Progress) -> Counts:
        return Counts(
            total=self._total,
            completed=progress.rows - progress.errors,
            failed=progress.errors,
            prompt_tokens=progress.prompt_tokens,
            completion_tokens=progress.completion_tokens,
            cached_tokens=progress.cached_tokens,
        )

    # ------------------------------------------------------------------------------------------------ after it

    def publish(self, halt: Halt | None) -> Published:
        with fenced():
            collected = self._collected()
        answered = Answered(collected) if collected is not None else None
        output, errors = _Lines(self._store), _Lines(self._store)
        try:
            for position, custom_id in self._source({}).in_order():
                found = answered.get(position) if answered is not None else None
                if found is not None:
                    line, failed = found
                    (errors if failed else output).add(line)
                elif halt is Halt.EXPIRED:
                    errors.add(expired_line(self._order.id, position, custom_id))
                elif halt is None:
                    raise DataLoss(f"the line at byte {position} of the input has no answer, and the job had ended")
            return self._published(answered, output, errors)
        except BaseException:
            output.discard()
            errors.discard()
            raise
        finally:
            if answered is not None:
                answered.close()

    def _collected(self) -> Path | None:
        """All answers that were committed, in one file; None where nothing was begun."""
        if not Checkpoint.exists(self._files):
            return None
        description = {"source": self._source({}).describe(), "sink": self._sink.describe()}
        checkpoint = Checkpoint(self._files, description, self._sink.part_format)
        batch = checkpoint.state.batch
        if batch is None:  # it was finished, or not begun
            return Path(self._sink.path) if checkpoint.state.batches else None
        publication = Publication(
            checkpoint.job, batch.number, checkpoint.epoch, self._files, batch.parts, checkpoint.still_ours
        )
        return Path(self._sink.publish(publication)[0])

    def _published(self, answered: Answered | None, output: _Lines, errors: _Lines) -> Published:
        counts = Counts(total=self._total)
        if answered is not None:
            prompt, completion, cached = answered.tokens
            counts = replace(
                counts,
                completed=answered.completed,
                failed=answered.failed,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cached_tokens=cached,
            )
        made = {name: self._record(name, lines) for name, lines in (("output", output), ("errors", errors))}
        files = tuple(one for one in made.values() if one is not None)
        ids = {name: one.id for name, one in made.items() if one is not None}
        return Published(counts, files, ids.get("output", ""), ids.get("errors", ""))

    def _record(self, name: str, lines: _Lines) -> pb.FileRecord | None:
        order = self._order
        content = lines.keep(order.namespace)
        if content is None:
            return None
        return file_record(
            order.namespace,
            new_file_id(),
            content,
            filename=f"{order.id}_{name}.jsonl",
            purpose=OUTPUT,
            now=time.time(),
            expires_after_s=order.output_expires_after_s,
        )

    def unpublish(self, published: Published) -> None:
        for one in published.files:
            self._store.remove(one.uri)

    def discard(self) -> None:
        self._store.remove_work_folder(self._order.namespace, self._order.id)


class _Lines:
    """One file of lines, which is there only when it has some."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store
        self._writing: Writing | None = None
        self._buffer = bytearray()

    def add(self, line: str) -> None:
        self._buffer += line.encode() + b"\n"
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writing is None:
            self._writing = self._store.begin()
        self._writing.write(bytes(self._buffer))
        self._buffer.clear()

    def keep(self, namespace: str) -> Content | None:
        """None: there was no line."""
        if self._buffer:
            self._flush()
        return None if self._writing is None else self._writing.keep(namespace)

    def discard(self) -> None:
        if self._writing is not None:
            self._writing.discard()


@contextlib.contextmanager
def fenced() -> Iterator[None]:
    """Who goes on with the folder has the batch, too."""
    try:
        yield
    except Overtaken as error:
        raise ClaimLost(error.message) from error
