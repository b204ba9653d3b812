"""JSON lines and CSV: one file, made of the parts one after the other."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from serving.batch.checkpoint.identifiers import as_json, batches_of, json_text
from serving.batch.sinks.base import (
    Publication,
    append_file,
    check_target,
    checked_target,
    target_of,
    written_beside,
)
from serving.batch.sources.base import ROWS_IN_PIECE, table_of_columns

JsonObject = Mapping[str, Any]
_FIELD_BYTES: Final = 256 << 20  # of one field of a CSV, when a part is read back


class JsonlFormat:
    """An object in each line."""

    suffix = ".jsonl"

    def write(self, table: pa.Table, stream: BinaryIO) -> None:
        for batch in table.to_batches(ROWS_IN_PIECE):
            stream.writelines(_line(row) for row in batch.to_pylist())

    def read(self, path: str) -> Iterator[pa.Table]:
        with open(path, "rb") as stream:
            for lines in batches_of(stream, ROWS_IN_PIECE):
                rows = [json.loads(line) for line in lines]
                names = list(dict.fromkeys(name for row in rows for name in row))
                yield table_of_columns({name: [row.get(name) for row in rows] for name in names})


def _line(row: Mapping[str, Any]) -> bytes:
    text = _json(row)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write it, UTF-8 cannot
        return f"{json.dumps(json.loads(text))}\n".encode()


def _json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=as_json)
    except ValueError:  # JSON has no word for what is no number
        return json.dumps(_finite(row), ensure_ascii=False, default=as_json)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value


class CsvFormat:
    """As RFC 4180 has it, names first; nothing for null; what is nested as JSON."""

    suffix = ".csv"

    def write(self, table: pa.Table, stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(table.column_names)
        for batch in table.to_batches(ROWS_IN_PIECE):
            writer.writerows([_field(value) for value in row.values()] for row in batch.to_pylist())
        text.detach()

    def read(self, path: str) -> Iterator[pa.Table]:
        csv.field_size_limit(_FIELD_BYTES)
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            names = next(reader)
            for rows in batches_of(reader, ROWS_IN_PIECE):
                columns = {name: [row[at] or None for row in rows] for at, name in enumerate(names)}
                yield table_of_columns(columns)


def _field(value: object) -> object:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return json_text(value) if isinstance(value, dict | list | bool) else as_json(value)


class _FileSink:
    kind = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """`path` of the output; with `{batch}` in it for sources without an end."""
        self.path = checked_target(path)

    def describe(self) -> JsonObject:
        return {"kind": self.kind, "path": self.path}

    def check(self, bounded: bool) -> None:
        check_target(self.path, bounded)


class JsonlSink(_FileSink):
    """One file of JSON lines."""

    kind = "jsonl"
    part_format = JsonlFormat()

    def publish(self, publication: Publication) -> list[str]:
        target = target_of(self.path, publication.batch)
        with written_beside(target, publication) as stream:
            for part in publication.parts:
                if not part.skip:
                    append_file(publication.path_of(part, self.part_format), stream)
                    continue
                skip = set(part.skip)
                with publication.path_of(part, self.part_format).open("rb") as lines:
                    stream.writelines(line for number, line in enumerate(lines) if number not in skip)
        return [str(target)]


class CsvSink(_FileSink):
    """One CSV file, with all columns that any part has."""

    kind = "csv"
    part_format = CsvFormat()

    def publish(self, publication: Publication) -> list[str]:
        target = target_of(self.path, publication.batch)
        paths = [publication.path_of(part, self.part_format) for part in publication.parts]
        headers = [_header(path) for path in paths]
        names = list(dict.fromkeys(name for header, _ in headers for name in header))
        with written_beside(target, publication) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(names)
            for part, path, (header, size) in zip(publication.parts, paths, headers, strict=True):
                if header == names and not part.skip:
                    append_file(path, stream, skip_bytes=size)
                    continue
                for table in part.tables(self.part_format, publication.files):
                    writer.writerows(_fields(table, names))
            text.detach()
        return [str(target)]


def _fields(table: pa.Table, names: Sequence[str]) -> Iterator[list[object]]:
    for row in table.to_pylist():
        yield [_field(row.get(name)) for name in names]


def _header(path: Path) -> tuple[list[str], int]:
    """Names of its columns, and how many bytes they take."""
    with path.open(encoding="utf-8", newline="") as stream:
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for line in stream:
                taken.append(line)
                yield line

        names = next(csv.reader(lines()))
    return names, len("".join(taken).encode())
