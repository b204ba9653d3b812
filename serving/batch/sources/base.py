"""What a job reads: in batches, each by a plan that is recorded before it is read, so that every run reads the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.extensions import ArrowPythonObjectArray

from serving.batch.checkpoint.identifiers import IDENTIFIER
from serving.batch.steps import StepResources

if TYPE_CHECKING:
    from ray.data import Dataset

JsonObject = Mapping[str, Any]
ROWS_IN_PIECE: Final = 1024  # that a reader holds at once, as Python objects
_T = TypeVar("_T")
_USUAL: Final = StepResources()


class Source(Protocol):
    """A plan and a position are JSON objects: they go into the job's log."""

    @property
    def bounded(self) -> bool:
        """All of it is one batch, and then it has ended."""
        ...

    @property
    def poll_s(self) -> float:
        """How long to wait where there is nothing yet."""
        ...

    def describe(self) -> JsonObject:
        """What must be the same when the job is started again."""
        ...

    def plan(self, position: JsonObject) -> JsonObject | None:
        """What the next batch reads, after all that `position` says was read. None: nothing now."""
        ...

    def ended(self, position: JsonObject) -> bool:
        """Whether there will never be more, where `plan` gave None."""
        ...

    def advance(self, position: JsonObject, plan: JsonObject) -> JsonObject:
        """The position after a batch."""
        ...

    def read(self, plan: JsonObject) -> Dataset:
        """Its rows with the column `__row__`, the same ones with the same identifiers in every run."""
        ...

    def rows(self, plan: JsonObject) -> int | None:
        """About how many, for the time left; None: not known."""
        ...


class SplitSource(Datasource):  # type: ignore[misc]
    """A Ray Data source of tasks that are known beforehand: `read` is called with each of them, in a worker."""

    def __init__(self, name: str, tasks: Sequence[_T], read: Callable[[_T], Iterable[pa.Table]], nbytes: int) -> None:
        super().__init__()
        self._name = name
        self._tasks = tasks
        self._read = read
        self._nbytes = nbytes

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        return self._nbytes

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:  # noqa: ARG002
        size = self._nbytes // max(1, len(self._tasks))
        metadata = BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
        return [ReadTask(_Bound(self._read, task), metadata) for task in self._tasks]


class _Bound:
    def __init__(self, read: Callable[[Any], Iterable[pa.Table]], task: object) -> None:
        self._read = read
        self._task = task

    def __call__(self) -> Iterator[pa.Table]:
        yield from self._read(self._task)


def dataset_of(
    name: str,
    tasks: Sequence[_T],
    read: Callable[[_T], Iterable[pa.Table]],
    nbytes: int,
    resources: StepResources = _USUAL,
) -> Dataset:
    """One task of Ray Data for each of `tasks`. Without any, a set of no rows."""
    if not tasks:
        return ray.data.from_arrow(pa.table({IDENTIFIER: pa.array([], type=pa.string())}))
    source = SplitSource(name, tasks, read, nbytes)
    return ray.data.read_datasource(source, override_num_blocks=len(tasks), **resources.options())


def table_of(rows: Sequence[Mapping[str, Any]], identifiers: Sequence[str]) -> pa.Table:
    """Rows as JSON has them, unchanged: text as strings, else as Python objects, whose columns always fit together."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = table_of_columns({name: [row.get(name) for row in rows] for name in names})
    return table.append_column(IDENTIFIER, pa.array(identifiers, type=pa.string()))


def table_of_columns(columns: Mapping[str, list[Any]]) -> pa.Table:
    return pa.table({name: _column(values) for name, values in columns.items()})


def _column(values: list[Any]) -> pa.Array:
    if all(value is None for value in values):
        return pa.nulls(len(values))
    if all(value is None or isinstance(value, str) for value in values):
        with contextlib.suppress(UnicodeEncodeError):  # JSON may have halves of surrogate pairs, Arrow's strings not
            return pa.array(values, type=pa.string())
    return ArrowPythonObjectArray.from_objects(values)
