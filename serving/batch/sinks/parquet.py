"""A folder of Parquet files, with `_SUCCESS` when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch.checkpoint.files import disk_errors
from serving.batch.checkpoint.identifiers import json_text
from serving.batch.checkpoint.parts import Part
from serving.batch.sinks.base import Publication, check_target, checked_target, target_of
from serving.errors import InvalidArgument

JsonObject = Mapping[str, Any]
SUCCESS: Final = "_SUCCESS"
_ROWS: Final = 16_384  # that are held while a part is read


class ParquetFormat:
    """Columns of Python objects become columns of their scalars' type, or text (JSON) where there is none."""

    suffix = ".parquet"

    def write(self, table: pa.Table, stream: BinaryIO) -> None:
        pq.write_table(plain(table), stream)

    def read(self, path: str) -> Iterator[pa.Table]:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=_ROWS):
                yield pa.Table.from_batches([batch])


def plain(table: pa.Table) -> pa.Table:
    """Without Python objects."""
    columns = {name: _plain(table.column(name)) for name in table.column_names}
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not isinstance(column.type, pa.ExtensionType):
        return column
    values = column.to_pylist()
    if not any(isinstance(value, dict | list) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            pass  # of several types, or what no type of Arrow holds
    return pa.array([_text(value) for value in values], type=pa.string())


def _text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json_text(value)
    return text.encode("utf-8", "replace").decode()  # halves of surrogate pairs have no UTF-8


class ParquetSink:
    """A folder; parts are linked into it as they are, those that lack a column of another part are written again."""

    part_format = ParquetFormat()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """`path` of the folder; with `{batch}` in it for sources without an end."""
        self.path = checked_target(path)

    def describe(self) -> JsonObject:
        return {"kind": "parquet", "path": self.path}

    def check(self, bounded: bool) -> None:
        check_target(self.path, bounded)

    def publish(self, publication: Publication) -> list[str]:
        target = target_of(self.path, publication.batch)
        with disk_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            schema = self._schema(publication)
            wanted = {f"part-{number:06d}.parquet": part for number, part in enumerate(publication.parts)}
            for name, part in wanted.items():
                publication.still_ours()
                self._place(publication, part, schema, target / name)
            for name in sorted(os.listdir(target)):
                if name not in wanted:  # of a driver that died, or of one that goes on although it was overtaken
                    (target / name).unlink(missing_ok=True)
            publication.still_ours()
            (target / SUCCESS).touch()
            publication.files.sync_folder(target)
        return [str(target)]

    def _schema(self, publication: Publication) -> pa.Schema | None:
        schemas = [pq.read_schema(publication.path_of(part, self.part_format)) for part in publication.parts]
        bare = [schema.remove_metadata() for schema in schemas]
        try:
            return pa.unify_schemas(bare, promote_options="permissive") if bare else None
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InvalidArgument(
                f"{self.path}: rows of one column have types that do not fit together: {error}; let the processor make"
                " them one type, or write JSON lines"
            ) from None

    def _place(self, publication: Publication, part: Part, schema: pa.Schema | None, target: Path) -> None:
        source = publication.path_of(part, self.part_format)
        temporary = target.with_name(f".{target.name}.{publication.job}-{publication.epoch}")
        temporary.unlink(missing_ok=True)
        try:
            if part.skip or not pq.read_schema(source).remove_metadata().equals(schema):
                with temporary.open("wb") as stream, pq.ParquetWriter(stream, schema) as writer:
                    for table in part.tables(self.part_format, publication.files):
                        writer.write_table(_fitted(table, schema))
                _sync(temporary)
            else:
                _link(source, temporary)
            os.replace(temporary, target)
            if (
                target.samefile(source) and temporary.exists()
            ):  # replacing one link by another to the same file is nothing
                temporary.unlink()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
            raise
        shutil.copyfile(source, target)  # another file system
        _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
