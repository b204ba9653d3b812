"""Iceberg on a real catalog (SQLite): pinned snapshots, filters, increments; one append for a batch, however often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from serving.batch.checkpoint import IDENTIFIER, Checkpoint, Files, Overtaken
from serving.batch.iceberg import IcebergTable
from serving.batch.sinks import IcebergSink
from serving.batch.sources import IcebergSource
from serving.batch.sources.iceberg import _Reader
from serving.errors import DataLoss, InvalidArgument, NotFound
from tests.support.batch_parts import Crash, publication_of, without_identifier, written

_SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


@pytest.fixture
def properties(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "warehouse").mkdir()
    return {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse"}


@pytest.fixture
def catalog(properties: dict[str, str]) -> Iterator[Catalog]:
    catalog = load_catalog("test", **properties)
    catalog.create_namespace("ns")
    catalog.create_table("ns.t", _SCHEMA)
    yield catalog
    catalog.close()


@pytest.fixture
def table(properties: dict[str, str]) -> IcebergTable:
    return IcebergTable("ns.t", "test", properties)


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": numbers, "text": [f"row {n}" for n in numbers]}, schema=_SCHEMA)


def read(source: IcebergSource, plan: Any) -> tuple[list[int], list[str]]:
    tables = list(_Reader(source, plan)(source._tasks(plan)))
    ids = [one for table in tables for one in table.column(IDENTIFIER).to_pylist()]
    return [int(str(row["n"])) for row in without_identifier(iter(tables))], ids


def test_a_snapshot_is_read_as_it_was(catalog: Catalog, table: IcebergTable) -> None:
    catalog.load_table("ns.t").append(rows(1, 2, 3))
    catalog.load_table("ns.t").append(rows(4, 5))
    source = IcebergSource(table)
    plan = source.plan({})
    assert plan is not None
    first = read(source, plan)
    assert sorted(first[0]) == [1, 2, 3, 4, 5]
    assert len(set(first[1])) == 5
    catalog.load_table("ns.t").append(rows(6))
    catalog.load_table("ns.t").delete("n = 1")
    assert read(source, plan) == first
    assert source.rows(plan) == 5
    assert source.ended(source.advance({}, plan))


def test_rows_are_filtered_and_columns_chosen(catalog: Catalog, table: IcebergTable) -> None:
    catalog.load_table("ns.t").append(rows(*range(10)))
    source = IcebergSource(table, row_filter="n >= 4 and text <> 'row 7'", columns=("n",), identifier="n")
    plan = source.plan({})
    assert plan is not None
    (found,) = _Reader(source, plan)(source._tasks(plan))
    assert found.column_names == ["n", IDENTIFIER]
    assert found.column("n").to_pylist() == [4, 5, 6, 8, 9]


def test_increments_are_read_once(catalog: Catalog, table: IcebergTable) -> None:
    source = IcebergSource(table, follow=True)
    plan = source.plan({})
    assert plan is not None
    assert read(source, plan)[0] == []
    position = source.advance({}, plan)
    assert source.plan(position) is None
    seen: list[int] = []
    catalog.load_table("ns.t").append(rows(1))
    plan = source.plan({})
    assert plan is not None
    seen += read(source, plan)[0]
    position = source.advance(position, plan)
    catalog.load_table("ns.t").append(rows(2))
    catalog.load_table("ns.t").append(rows(3))
    plan = source.plan(position)
    assert plan is not None
    seen += read(source, plan)[0]
    assert sorted(seen) == [1, 2, 3]
    assert source.plan(source.advance(position, plan)) is None
    since = IcebergSource(table, since=position["snapshot"])
    plan = since.plan({})
    assert sorted(read(since, plan)[0]) == [2, 3]


@pytest.mark.usefixtures("catalog")
def test_what_is_not_there_is_told(table: IcebergTable, properties: dict[str, str]) -> None:
    with pytest.raises(NotFound, match=r"no table ns\.x"):
        IcebergTable("ns.x", "test", properties).load()
    with pytest.raises(DataLoss, match="no snapshot 7"):
        IcebergSource(table)._tasks({"snapshot": 7, "since": None})


class Job:
    def __init__(self, folder: Path, table: IcebergTable, parts: list[list[dict[str, Any]]]) -> None:
        self.files = Files(folder)
        self.sink = IcebergSink(table)
        self.checkpoint = self.open()
        self.checkpoint.begin({})
        for part in parts:
            self.checkpoint.take(written(self.files, self.checkpoint, part, self.sink.part_format))
        self.checkpoint.commit()
        self.checkpoint.finish()

    def open(self) -> Checkpoint:
        return Checkpoint(self.files, self.sink.describe(), self.sink.part_format)

    def publish(self) -> list[str]:
        return self.sink.publish(publication_of(self.files, self.checkpoint))


_PARTS = [[{"n": 1, "text": "one"}, {"n": 2}], [{"n": 2, "text": "again"}, {"n": 3, "text": "three"}]]


def data_files(folder: Path) -> int:
    return len(list((folder / "warehouse").rglob("*.parquet")))


def content(catalog: Catalog) -> list[int]:
    return sorted(catalog.load_table("ns.t").scan().to_arrow().column("n").to_pylist())


def test_a_batch_is_appended_once(catalog: Catalog, table: IcebergTable, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", table, _PARTS)
    outputs = job.publish()
    assert job.publish() == outputs  # as after a crash between the append and the log's entry
    assert content(catalog) == [1, 2, 3]
    assert len(catalog.load_table("ns.t").snapshots()) == 1
    job.checkpoint.published({}, outputs)


def test_partitions_are_written(catalog: Catalog, properties: dict[str, str], tmp_path: Path) -> None:
    schema = catalog.load_table("ns.t").schema()
    spec = PartitionSpec(PartitionField(source_id=1, field_id=1000, transform=IdentityTransform(), name="n"))
    catalog.create_table("ns.p", schema, partition_spec=spec)
    Job(tmp_path / "job", IcebergTable("ns.p", "test", properties), _PARTS).publish()
    found = catalog.load_table("ns.p").scan(row_filter="n = 3").to_arrow().to_pylist()
    assert found == [{"n": 3, "text": "three"}]


def test_a_failed_append_leaves_no_files(catalog: Catalog, table: IcebergTable, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", table, [*_PARTS, [{"n": 9, "wrong": 1}]])
    with pytest.raises(InvalidArgument, match="no column wrong"):
        job.publish()
    assert data_files(tmp_path) == 0
    overtaken = Job(tmp_path / "job2", table, _PARTS)
    overtaken.open()
    with pytest.raises(Overtaken):
        overtaken.publish()
    assert data_files(tmp_path) == 0
    assert content(catalog) == []


def test_another_writer_in_between_is_no_failure(
    catalog: Catalog, table: IcebergTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", table, _PARTS)
    commit = Table._do_commit
    others = iter([rows(10), rows(11)])

    def after_another(self: Table, *args: Any, **kwargs: Any) -> None:
        other = next(others, None)
        if other is not None:
            with monkeypatch.context() as patch:
                patch.setattr(Table, "_do_commit", commit)
                catalog.load_table("ns.t").append(other)
        commit(self, *args, **kwargs)

    monkeypatch.setattr(Table, "_do_commit", after_another)
    job.publish()
    assert content(catalog) == [1, 2, 3, 10, 11]


def test_two_drivers_that_append_at_once_append_once(
    catalog: Catalog, table: IcebergTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", table, _PARTS)
    commit = Table._do_commit
    entered: list[bool] = []

    def after_the_newer_driver(self: Table, *args: Any, **kwargs: Any) -> None:
        if not entered:
            entered.append(True)
            newer = Job.__new__(Job)
            newer.files, newer.sink = job.files, job.sink
            newer.checkpoint = newer.open()
            newer.publish()
        commit(self, *args, **kwargs)

    monkeypatch.setattr(Table, "_do_commit", after_the_newer_driver)
    job.publish()
    monkeypatch.undo()
    assert content(catalog) == [1, 2, 3]
    assert data_files(tmp_path) == 2  # the newer one's: those of the older one are gone


def test_files_of_a_driver_that_was_killed_are_removed(
    catalog: Catalog, table: IcebergTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", table, _PARTS)

    def killed(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Table, "transaction", killed)
        patch.setattr(PyArrowFileIO, "delete", lambda *_: None)  # what is killed tidies nothing
        with pytest.raises(Crash):
            job.publish()
    assert data_files(tmp_path) == 2
    job.checkpoint = job.open()
    job.publish()
    assert data_files(tmp_path) == 2
    assert content(catalog) == [1, 2, 3]
    assert not list((tmp_path / "job" / "appends").iterdir())
