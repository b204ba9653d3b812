"""An Iceberg table: data files first, then one append, which names the job and the batch, so that a repeat finds it."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from pyarrow.fs import FileSelector

from serving.batch.iceberg import IcebergTable
from serving.batch.sinks.base import Publication
from serving.batch.sinks.parquet import ParquetFormat
from serving.errors import Conflict, InvalidArgument
from serving.observe import get_logger

_LOG: Final = get_logger(__name__)
JsonObject = Mapping[str, Any]
JOB: Final = "mesh.batch.job"  # in a snapshot's summary: "<job>-<batch>"
EPOCH: Final = "mesh.batch.epoch"
_MARKS: Final = "appends"  # in the job's folder: which drivers began to write data files
_ATTEMPTS: Final = 20


class IcebergSink:
    """Rows must fit the table: a column that it has not is refused, one that rows have not is null."""

    part_format = ParquetFormat()

    def __init__(self, table: IcebergTable) -> None:
        self.table = table

    def describe(self) -> JsonObject:
        return {"kind": "iceberg", "catalog": self.table.catalog, "table": self.table.name}

    def check(self, bounded: bool) -> None:  # noqa: ARG002
        self.table.load()

    def publish(self, publication: Publication) -> list[str]:
        table = self.table.load()
        done = snapshot_of(table, _key(publication)) or self._append(table, publication)
        self._sweep(publication, done)
        return [f"{self.table.name}@{done.number}"]

    def _append(self, table: Any, publication: Publication) -> Appended:
        """On any failure no file of it is left; after a `kill -9`, the next driver that publishes removes them."""
        publication.files.make_folder(_MARKS)
        publication.files.create(f"{_MARKS}/{publication.batch}-{publication.epoch}", b"")
        files: list[Any] = []
        done: Appended | None = None
        try:
            files.extend(self._data_files(table, publication))
            publication.still_ours()
            done = self._commit(table, files, publication)
            return done
        finally:
            now = done or snapshot_of(self.table.load(), _key(publication))
            if now is None or now.epoch != publication.epoch:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):  # a newer driver has swept
                        table.io.delete(file.file_path)

    def _data_files(self, table: Any, publication: Publication) -> Iterator[Any]:
        from pyiceberg.io.pyarrow import _dataframe_to_data_files

        schema = table.schema().as_arrow()
        name = _name_of_files(_key(publication), publication.epoch)
        counter = itertools.count()
        for rows in publication.tables(self.part_format):
            if rows.num_rows:
                fitted = _fitted(rows, schema, self.table.name)
                yield from _dataframe_to_data_files(table.metadata, fitted, table.io, name, counter)

    def _commit(self, table: Any, files: list[Any], publication: Publication) -> Appended:
        """One append. Another writer's commit in between is no failure; one of this very batch is the end of it."""
        from pyiceberg.exceptions import CommitFailedException

        key = _key(publication)
        summary = {JOB: key, EPOCH: str(publication.epoch)}
        for _ in range(_ATTEMPTS):
            transaction = table.transaction()
            append = transaction.update_snapshot(snapshot_properties=summary).fast_append()
            with append:
                for file in files:
                    append.append_data_file(file)
            # PyIceberg would try again by itself, on top of whatever there is: also on top of this batch.
            transaction._snapshot_producers.clear()
            try:
                transaction.commit_transaction()
            except CommitFailedException:
                append._clean_all_uncommitted()
                _LOG.info("another writer was faster", table=self.table.name)
            table = self.table.load()
            done = snapshot_of(table, key)
            if done is not None:
                return done
        raise Conflict(f"table {self.table.name}: {_ATTEMPTS} times another writer was faster: run the job again")

    def _sweep(self, publication: Publication, done: Appended) -> None:
        """Removes data files of drivers that died, or were overtaken, before they appended: now they cannot."""
        marks = [name for name in publication.files.names(_MARKS) if name.startswith(f"{publication.batch}-")]
        epochs = {int(name.partition("-")[2]) for name in marks} - {done.epoch, publication.epoch}
        if epochs:
            names = {str(_name_of_files(_key(publication), epoch)) for epoch in epochs}
            removed = _remove_data_files(self.table.load(), names)
            _LOG.info("removed data files that were never appended", table=self.table.name, files=removed)
        for name in marks:
            publication.files.remove(f"{_MARKS}/{name}")


@dataclass(frozen=True)
class Appended:
    """The snapshot with a batch, and the epoch of the driver that made it."""

    number: int
    epoch: int


def _key(publication: Publication) -> str:
    return f"{publication.job}-{publication.batch}"


def _name_of_files(key: str, epoch: int) -> uuid.UUID:
    """What the names of its data files have in common: each driver has its own, so that none removes another's."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{key}-{epoch}")


def _remove_data_files(table: Any, names: set[str]) -> int:
    from pyiceberg.io.pyarrow import PyArrowFileIO

    place = table.properties.get("write.data.path", f"{table.location()}/data")
    scheme, host, path = PyArrowFileIO.parse_location(place, table.io.properties)
    filesystem = PyArrowFileIO(table.io.properties).fs_by_scheme(scheme, host)
    found = filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
    ours = [info.path for info in found if info.is_file and any(name in info.base_name for name in names)]
    for file in ours:
        filesystem.delete_file(file)
    return len(ours)


def snapshot_of(table: Any, key: str) -> Appended | None:
    """Where a batch was appended; None: nowhere yet."""
    for snapshot in table.snapshots():
        summary = snapshot.summary.additional_properties if snapshot.summary is not None else {}
        if summary.get(JOB) == key:
            return Appended(int(snapshot.snapshot_id), int(summary.get(EPOCH, 0)))
    return None


def _fitted(rows: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    unknown = [column for column in rows.column_names if column not in schema.names]
    if unknown:
        raise InvalidArgument(f"table {name} has no column {', '.join(unknown)}: add it, or let the processor drop it")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            columns.append(rows.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidArgument(f"table {name}, column {field.name}: rows do not fit {field.type}: {error}") from None
    return pa.table(columns, schema=schema)
