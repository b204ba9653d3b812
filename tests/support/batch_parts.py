"""Parts of batch jobs without Ray: written as workers write them, read back as sinks do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from serving.batch.checkpoint import IDENTIFIER, Checkpoint, Files, Part, PartFormat, PartWriter
from serving.batch.checkpoint.identifiers import identifier_of_value
from serving.batch.sinks import Publication
from serving.batch.sinks.lines import JsonlFormat
from serving.batch.sources.base import table_of


class Crash(BaseException):
    """The process ends here: no handler of ordinary errors sees it."""


class BreakingFiles(Files):
    """Breaks off before or after its n-th change, and leaves half of a file where it was being written."""

    def __init__(self, root: Path, *, crash_at: int = 0) -> None:
        super().__init__(root)
        self.crash_at = crash_at  # counts down; 0: never

    def _step(self) -> None:
        if self.crash_at:
            self.crash_at -= 1
            if not self.crash_at:
                raise Crash

    def write(self, name: str, fill: Callable[[BinaryIO], None]) -> int:
        self._step()
        try:
            self._step()
        except Crash:
            self.path(name).write_bytes(b'{"entry": {"kind": "com')
            raise
        size = super().write(name, fill)
        self._step()
        return size

    def create(self, name: str, data: bytes) -> bool:
        self._step()
        made = super().create(name, data)
        self._step()
        return made

    def remove(self, name: str) -> None:
        self._step()
        super().remove(name)
        self._step()


def table_of_rows(rows: Sequence[Mapping[str, Any]], identifier: str = "n") -> pa.Table:
    return table_of(rows, [identifier_of_value(row[identifier]) for row in rows])


def written(files: Files, checkpoint: Checkpoint, rows: Sequence[Mapping[str, Any]], part_format: PartFormat) -> Part:
    """By a worker of the batch under way."""
    batch = checkpoint.state.batch
    assert batch is not None
    return PartWriter(str(files.root), batch.number, checkpoint.epoch, part_format, 0.0).write(table_of_rows(rows))


def publication_of(files: Files, checkpoint: Checkpoint) -> Publication:
    batch = checkpoint.state.batch
    assert batch is not None
    return Publication(checkpoint.job, batch.number, checkpoint.epoch, files, tuple(batch.parts), checkpoint.still_ours)


def rows_of(files: Files, checkpoint: Checkpoint, part_format: PartFormat | None = None) -> Iterator[dict[str, Any]]:
    """All committed rows of the batch under way."""
    for table in publication_of(files, checkpoint).tables(part_format or JsonlFormat()):
        yield from table.to_pylist()


def without_identifier(tables: Iterator[pa.Table]) -> list[dict[str, Any]]:
    return [row for table in tables for row in table.drop_columns([IDENTIFIER]).to_pylist()]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
