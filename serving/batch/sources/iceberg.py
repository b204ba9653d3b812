"""Rows of an Iceberg table as one snapshot has them, or what was appended between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from serving.batch.iceberg import IcebergTable
from serving.batch.sources.base import dataset_of
from serving.batch.sources.parquet import with_identifiers
from serving.batch.sources.splits import target_bytes
from serving.errors import DataLoss, InvalidArgument

if TYPE_CHECKING:
    from ray.data import Dataset

JsonObject = Mapping[str, Any]
_FILES_TOGETHER: Final = 64


class IcebergSource:
    """The snapshot is the one that is current at the job's first start. Filters are applied where files are read."""

    def __init__(
        self,
        table: IcebergTable,
        *,
        row_filter: str = "",
        columns: Sequence[str] = (),
        identifier: str = "",
        since: int | None = None,
        follow: bool = False,
        poll_s: float = 10.0,
    ) -> None:
        """`row_filter`: as SQL's WHERE, of one table. `since`: only rows appended after this snapshot.

        `follow`: go on with what is appended later, a batch for each new snapshot that is found, until the job is
        stopped. Of what is not an append (overwrites, deletes) nothing is read then.
        """
        self.table = table
        self.row_filter = row_filter
        self.columns = tuple(columns)
        self.identifier = identifier
        self.since = since
        self.follow = follow
        self.poll_s = poll_s

    @property
    def bounded(self) -> bool:
        return not self.follow

    def describe(self) -> JsonObject:
        return {
            "kind": "iceberg",
            "catalog": self.table.catalog,
            "table": self.table.name,
            "row_filter": self.row_filter,
            "columns": list(self.columns),
            "identifier": self.identifier,
            "since": self.since,
            "follow": self.follow,
        }

    def plan(self, position: JsonObject) -> JsonObject | None:
        if self.ended(position):
            return None
        current = self.table.load().current_snapshot()
        snapshot = current.snapshot_id if current is not None else None
        if position and snapshot == position["snapshot"]:
            return None
        return {"snapshot": snapshot, "since": position["snapshot"] if position else self.since}

    def ended(self, position: JsonObject) -> bool:
        return self.bounded and bool(position)

    def advance(self, position: JsonObject, plan: JsonObject) -> JsonObject:  # noqa: ARG002
        return {"snapshot": plan["snapshot"]}

    def rows(self, plan: JsonObject) -> int | None:
        """As the files' metadata say: more than pass the filter."""
        return sum(int(task.file.record_count) for task in self._tasks(plan))

    def read(self, plan: JsonObject) -> Dataset:
        tasks = self._tasks(plan)
        total = sum(task.file.file_size_in_bytes for task in tasks)
        return dataset_of("Read iceberg", _groups(tasks, target_bytes(total)), _Reader(self, plan), total)

    def _tasks(self, plan: JsonObject) -> list[Any]:
        """PyIceberg's tasks: a file, and what is deleted of it. In the same order in every run."""
        if plan["snapshot"] is None:
            return []
        return sorted(self.scan(plan).plan_files(), key=lambda task: str(task.file.file_path))

    def scan(self, plan: JsonObject) -> Any:
        """PyIceberg's scan. DataLoss: the snapshot has expired."""
        table = self.table.load()
        for snapshot in (plan["snapshot"], plan["since"]):
            if snapshot is not None and table.snapshot_by_id(snapshot) is None:
                raise DataLoss(f"table {self.table.name} has no snapshot {snapshot} any more: start in a new folder")
        options: dict[str, Any] = {"selected_fields": self.columns or ("*",)}
        if self.row_filter:
            options["row_filter"] = self.row_filter
        try:
            if plan["since"] is None:
                return table.scan(snapshot_id=plan["snapshot"], **options)
            return table.incremental_append_scan(
                from_snapshot_id_exclusive=plan["since"], to_snapshot_id_inclusive=plan["snapshot"], **options
            )
        except ValueError as error:
            raise InvalidArgument(f"table {self.table.name} cannot be read so: {error}") from None


def _groups(tasks: Sequence[Any], target: int) -> list[list[Any]]:
    groups: list[list[Any]] = []
    room = 0
    for task in tasks:
        size = task.file.file_size_in_bytes
        if not groups or size > room or len(groups[-1]) >= _FILES_TOGETHER:
            groups.append([])
            room = target
        groups[-1].append(task)
        room -= size
    return groups


class _Reader:
    """In workers. A row's position is its number among those of its file that pass the filter in this snapshot."""

    def __init__(self, source: IcebergSource, plan: JsonObject) -> None:
        scan = source.scan(plan)
        self._identifier = source.identifier
        self._scan = (scan.table_metadata, scan.io, scan.projection(), scan.row_filter)

    def __call__(self, tasks: Sequence[Any]) -> Iterator[pa.Table]:
        from pyiceberg.io.pyarrow import ArrowScan

        scan = ArrowScan(*self._scan)
        for task in tasks:
            at = 0
            for batch in scan.to_record_batches([task]):
                if batch.num_rows:
                    name = str(task.file.file_path)
                    yield with_identifiers(pa.Table.from_batches([batch]), self._identifier, name, at)
                at += batch.num_rows
