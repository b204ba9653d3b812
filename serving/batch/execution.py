"""One run of a Ray Data pipeline whose rows are told parts: streamed, and ended within seconds when asked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import ray

from serving.batch.checkpoint.identifiers import IDENTIFIER, IdentifierSet, packed, unpacked
from serving.batch.checkpoint.parts import Part, PartWriter
from serving.batch.steps import StepResources
from serving.errors import Internal, MeshError, Unavailable
from serving.observe import get_logger

if TYPE_CHECKING:
    from ray.data import Dataset

_LOG: Final = get_logger(__name__)
_WAITING_PARTS: Final = 256  # told by workers, not yet taken by the driver
_END_WITHIN_S: Final = 30.0
_RAYS_ADVICE: Final = "\nFailed to apply UDF transform after"  # that Ray Data puts behind messages
_PUT_S: Final = 0.5
Processor = Callable[["Dataset"], "Dataset"]


class _LeaveOut:
    """In workers: the rows that are not finished. All processes of a node share the memory of the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, table: pa.Table) -> pa.Table:
        finished = IdentifierSet.of_sorted(np.memmap(self._path, dtype="S16", mode="r"))
        ids = unpacked(packed(table.column(IDENTIFIER).to_pylist()), IDENTIFIER)
        return table.filter(pa.array(~finished.contains(ids)))


class _WriteParts:
    """In workers: rows become a part; what goes on is where it is."""

    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer

    def __call__(self, table: pa.Table) -> pa.Table:
        if not table.num_rows:
            return pa.table({"part": pa.array([], type=pa.string())})
        return pa.table({"part": [self._writer.write(table).to_text()]})


def pipeline(
    rows: Dataset,
    finished_path: str,
    processor: Processor,
    writer: PartWriter,
    *,
    block_rows: int,
    resources: StepResources,
) -> Dataset:
    """Rows → those not finished → the processor → parts. `block_rows`: at most so many make one part and one task."""
    rows.context.enable_progress_bars = False
    rows.context.raise_original_map_exception = True  # else what a step raised does not reach the driver, only its text
    asks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", **resources.options()}
    if finished_path:
        rows = rows.map_batches(_LeaveOut(finished_path).__call__, **asks)
    rows = rows.repartition(target_num_rows_per_block=block_rows)
    # `repartition` takes no such argument: its tasks would ask for a CPU each.
    rows._logical_plan.dag.ray_remote_args["num_cpus"] = resources.cpus
    return processor(rows).map_batches(_WriteParts(writer).__call__, zero_copy_batch=True, **asks)


class Execution:
    """`next` gives parts as workers tell them; `close` ends all tasks, whatever they are at."""

    def __init__(self, parts: Dataset) -> None:
        self._parts = parts
        # What `iter_batches` and the like do, but with the executor in hand: only so can it be ended from outside.
        self._executor: Any = parts._create_executor()
        self._queue: queue.Queue[Part | BaseException | None] = queue.Queue(_WAITING_PARTS)
        self._closed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._consume, name="batch-parts", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> Part | None:
        """None: nothing in this time, or all has come (`ended`). MeshError: the pipeline failed."""
        try:
            item = self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise error_of(item) from item
        self._ended = item is None
        return item

    @property
    def ended(self) -> bool:
        return self._ended

    def close(self) -> None:
        self._closed.set()
        self._executor.shutdown(force=True)
        self._thread.join(_END_WITHIN_S)
        if self._thread.is_alive():
            _LOG.warning("a pipeline of Ray Data does not end", waited_s=_END_WITHIN_S)

    def _consume(self) -> None:
        try:
            for bundle in self._parts._build_bundle_iterator(self._executor):
                for entry in bundle.blocks:
                    for text in _texts(ray.get(entry.ref)):
                        self._put(Part.from_text(text))
                if self._closed.is_set():
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the driver asks for the next part
            self._put(error)

    def _put(self, item: Part | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_PUT_S)
            except queue.Full:
                continue
            return


def _texts(block: Any) -> list[str]:
    table = block if isinstance(block, pa.Table) else pa.Table.from_pandas(block)
    return list(table.column("part").to_pylist()) if "part" in table.column_names else []


def error_of(error: BaseException) -> MeshError:
    """The mesh's own error that a worker raised, or what the failure of the pipeline comes to."""
    cause = error
    while isinstance(cause, ray.exceptions.RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause  # a RayTaskError is also one of its cause's class
    text = str(cause).partition(_RAYS_ADVICE)[0].strip()
    if isinstance(cause, MeshError):
        return type(cause)(text)
    if isinstance(cause, ray.exceptions.RaySystemError | ray.exceptions.RayActorError | ConnectionError):
        return Unavailable(f"the Ray cluster is gone or does not answer: {text}; start the job again to go on")
    return Internal(f"the job's pipeline failed: {type(cause).__name__}: {text}")
