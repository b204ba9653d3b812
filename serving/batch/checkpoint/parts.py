"""Parts: what a worker wrote of a batch, under a name of its own. They count when an entry of the log names them."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from serving.batch.checkpoint.files import DiskFull, Files
from serving.batch.checkpoint.identifiers import IDENTIFIER, WIDTH, packed
from serving.errors import InvalidArgument
from serving.observe import get_logger

_LOG: Final = get_logger(__name__)
ERROR: Final = "__error__"  # the column of rows that failed; null where a row did not
PROMPT_TOKENS: Final = "prompt_tokens"
COMPLETION_TOKENS: Final = "completion_tokens"
CACHED_TOKENS: Final = "cached_tokens"  # of the prompt, that replicas knew from earlier ones
IDS_SUFFIX: Final = ".ids"
_DISK_PAUSE_S: Final = 1.0
_T = TypeVar("_T")


class PartFormat(Protocol):
    """How a sink wants its parts. It is pickled to workers. Tables come without the identifier's column."""

    @property
    def suffix(self) -> str: ...
    def write(self, table: pa.Table, stream: BinaryIO) -> None: ...
    def read(self, path: str) -> Iterator[pa.Table]:
        """The rows of a part, in pieces, in their order."""
        ...


@dataclass(frozen=True)
class Counts:
    """Of rows: how many, how many failed, tokens where there are columns of these names."""

    rows: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def astuple(counts: Counts) -> tuple[int, ...]:
    return counts.rows, counts.errors, counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens


def counts_of(table: pa.Table) -> Counts:
    return Counts(
        rows=table.num_rows,
        errors=sum(value is not None for value in _values(table, ERROR)),
        prompt_tokens=sum(map(_whole_number, _values(table, PROMPT_TOKENS))),
        completion_tokens=sum(map(_whole_number, _values(table, COMPLETION_TOKENS))),
        cached_tokens=sum(map(_whole_number, _values(table, CACHED_TOKENS))),
    )


def _values(table: pa.Table, column: str) -> list[Any]:
    # Not Arrow's own counts and sums: a column of Python objects has neither nulls nor numbers for Arrow.
    return list(table.column(column).to_pylist()) if column in table.column_names else []


def _whole_number(value: object) -> int:
    """0 of what is no number; a CSV has text."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else 0
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


@dataclass(frozen=True)
class Part:
    """`name` is relative to the job's folder, without a suffix. Rows in `skip` are not taken, nor in `counts`."""

    name: str
    rows: int
    nbytes: int
    counts: Counts
    skip: tuple[int, ...] = ()

    def to_text(self) -> str:
        return json.dumps(self.to_json())

    @classmethod
    def from_text(cls, text: str) -> Part:
        return cls.from_json(json.loads(text))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        return cls(**{**value, "counts": Counts(**value["counts"]), "skip": tuple(value["skip"])})

    def without(self, skip: Sequence[int], part_format: PartFormat, files: Files) -> Part:
        """The same without some rows, counted again."""
        kept = replace(self, skip=tuple(skip))
        counts = Counts()
        for table in kept.tables(part_format, files):
            counts += counts_of(table)
        return replace(kept, counts=counts)

    def tables(self, part_format: PartFormat, files: Files) -> Iterator[pa.Table]:
        """Its rows, without those to skip."""
        taken = np.ones(self.rows, dtype=np.bool_)
        taken[list(self.skip)] = False
        at = 0
        for table in part_format.read(str(files.path(self.name + part_format.suffix))):
            mask = taken[at : at + table.num_rows]
            at += table.num_rows
            yield table if mask.all() else table.filter(pa.array(mask))


@dataclass(frozen=True)
class PartWriter:
    """In a worker: writes one part for each table. Waits while the disk is full, at most `disk_wait_s`."""

    folder: str
    batch: int
    epoch: int
    part_format: PartFormat
    disk_wait_s: float

    def write(self, table: pa.Table) -> Part:
        if IDENTIFIER not in table.column_names:
            raise InvalidArgument(
                f"the processor's result has no column `{IDENTIFIER}` (it has {', '.join(table.column_names)}):"
                " each step must keep it, or which rows are finished is not known"
            )
        ids = packed(table.column(IDENTIFIER).to_pylist())
        rows = table.drop_columns([IDENTIFIER])
        files = Files(self.folder)
        name = f"{parts_folder(self.batch)}/{self.epoch}-{uuid.uuid4().hex}"
        size = while_disk_is_full(
            lambda: files.write(name + self.part_format.suffix, lambda stream: self.part_format.write(rows, stream)),
            self.disk_wait_s,
        )
        while_disk_is_full(lambda: files.write_bytes(name + IDS_SUFFIX, ids), self.disk_wait_s)
        return Part(name, table.num_rows, size, counts_of(rows))


def parts_folder(batch: int) -> str:
    return f"parts/{batch}"


def epoch_of(file: str) -> int:
    """Of a file in a folder of parts; 0 where its name says none."""
    epoch, separator, _ = file.partition("-")
    return int(epoch) if separator and epoch.isdecimal() else 0


def ids_bytes(part: Part) -> int:
    return part.rows * WIDTH


def while_disk_is_full(
    write: Callable[[], _T], limit_s: float, *, pause: Callable[[float, str], None] | None = None
) -> _T:
    """Tries again while `write` says DiskFull, each second, for `limit_s`; then DiskFull."""
    began = time.monotonic()
    while True:
        try:
            return write()
        except DiskFull as error:
            waited = time.monotonic() - began
            if waited >= limit_s:
                raise
            _LOG.warning("the disk is full: waiting", detail=error.message, waited_s=round(waited, 1))
            seconds = min(_DISK_PAUSE_S, max(0.01, limit_s - waited))
            if pause is None:
                time.sleep(seconds)
            else:
                pause(seconds, error.message)
