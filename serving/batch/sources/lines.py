"""JSON lines and CSV. A row's position is the byte at which it begins, so that splits change nothing of it."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from serving.batch.checkpoint.identifiers import batches_of, identifiers_of
from serving.batch.sources.base import ROWS_IN_PIECE, table_of
from serving.batch.sources.files import FileSource
from serving.batch.sources.splits import Listed, Split, by_bytes, by_records
from serving.errors import InvalidArgument, ResourceExhausted

_GZIP: Final = ".gz"
_LINE_BYTES: Final = 64 << 20
_WHOLE: Final = 1 << 62


def _opened(file: Listed) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file.path) if file.path.endswith(_GZIP) else open(file.path, "rb"))


def _lines(stream: BinaryIO, split: Split) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in it, each with where."""
    end = _WHOLE if split.file.path.endswith(_GZIP) else split.end
    at = split.start
    if at:
        stream.seek(at - 1)
        at += len(_line(stream, split)) - 1
    while at < end:
        line = _line(stream, split)
        if not line:
            return
        if end != _WHOLE:
            line = line[: split.file.size - at]  # what was appended since belongs to nobody
        yield at, line
        at += len(line)


def _line(stream: BinaryIO, split: Split) -> bytes:
    line = stream.readline(_LINE_BYTES)
    if len(line) == _LINE_BYTES:
        raise ResourceExhausted(f"{split.file.path}: a line is longer than {_LINE_BYTES >> 20} MiB")
    return line


class _LinesSource(FileSource):
    def _tables(self, split: Split, rows: Iterator[tuple[int, bytes, Mapping[str, Any]]]) -> Iterator[pa.Table]:
        for batch in batches_of(rows, ROWS_IN_PIECE):
            positions, contents, values = zip(*batch, strict=True)
            yield table_of(values, identifiers_of(values, self.identifier, split.file.name, positions, contents))

    def rows_of(self, file: Listed) -> int:
        if file.path.endswith(_GZIP):
            return 0
        return super().rows_of(file)


class JsonlSource(_LinesSource):
    """A JSON object in each line; empty lines are none. Values pass through unchanged."""

    kind = "jsonl"
    suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    def splits(self, file: Listed, target: int) -> Iterator[tuple[Split, int]]:
        if file.path.endswith(_GZIP):
            yield Split(file, 0, file.size), file.size
            return
        for split in by_bytes(file, target):
            yield split, split.end - split.start

    def read_split(self, split: Split) -> Iterator[pa.Table]:
        with _opened(split.file) as stream:
            yield from self._tables(split, self._objects(stream, split))

    def _objects(self, stream: BinaryIO, split: Split) -> Iterator[tuple[int, bytes, Mapping[str, Any]]]:
        for at, line in _lines(stream, split):
            content = line.strip()
            if not content:
                continue
            try:
                value = json.loads(content)
            except ValueError as error:
                raise InvalidArgument(f"{split.file.path}, byte {at}: this line is no JSON: {error}") from None
            if not isinstance(value, dict):
                raise InvalidArgument(f"{split.file.path}, byte {at}: a line must be a JSON object")
            yield at, content, value


class CsvSource(_LinesSource):
    """As RFC 4180 has it, in UTF-8, with a line of names first. Values are text."""

    kind = "csv"
    suffixes = (".csv", ".csv.gz")

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        identifier: str = "",
        delimiter: str = ",",
    ) -> None:
        super().__init__(paths, identifier=identifier)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise InvalidArgument(f"a CSV's delimiter must be one sign and no quote or end of line, not {delimiter!r}")
        self.delimiter = delimiter

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "delimiter": self.delimiter}

    def splits(self, file: Listed, target: int) -> Iterator[tuple[Split, int]]:
        if file.path.endswith(_GZIP) or file.size <= target:
            yield Split(file, 0, file.size), file.size
            return
        with open(file.path, "rb") as stream:
            for split in by_records(file, stream, target):
                yield split, split.end - split.start

    def read_split(self, split: Split) -> Iterator[pa.Table]:
        with _opened(split.file) as stream:
            yield from self._tables(split, self._records(stream, split))

    def _records(self, stream: BinaryIO, split: Split) -> Iterator[tuple[int, bytes, Mapping[str, Any]]]:
        header = _Records(stream, Split(split.file, 0, _WHOLE), self.delimiter)
        names = next(header, (0, b"", []))[2]
        if len(set(names)) != len(names):
            raise InvalidArgument(f"{split.file.path}: two columns have the same name")
        first = header.position
        begin = max(split.start, first)
        stream.seek(begin)
        for at, content, values in _Records(stream, Split(split.file, begin, split.end), self.delimiter):
            if not values:
                continue  # an empty line
            if len(values) != len(names):
                raise InvalidArgument(
                    f"{split.file.path}, byte {at}: this record has {len(values)} fields, the first line {len(names)}"
                )
            yield at, content, dict(zip(names, values, strict=True))


class _Records:
    """Records of a CSV from where the stream stands, each with where it begins and its bytes."""

    def __init__(self, stream: BinaryIO, split: Split, delimiter: str) -> None:
        self._stream = stream
        self._split = split
        self._end = _WHOLE if split.file.path.endswith(_GZIP) else min(split.end, split.file.size)
        self.position = split.start
        self._taken: list[bytes] = []
        csv.field_size_limit(_LINE_BYTES)
        self._reader = csv.reader(self._text(), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, bytes, list[str]]]:
        return self

    def __next__(self) -> tuple[int, bytes, list[str]]:
        at = self.position
        self._taken = []
        if at >= self._end:
            raise StopIteration
        try:
            values = next(self._reader)
        except csv.Error as error:
            raise InvalidArgument(f"{self._split.file.path}, byte {at}: this record is no CSV: {error}") from None
        return at, b"".join(self._taken), values

    def _text(self) -> Iterator[str]:
        while line := _line(self._stream, self._split):
            begins = self.position
            self._taken.append(line)
            self.position += len(line)
            try:
                yield line.decode("utf-8-sig" if begins == 0 else "utf-8")
            except UnicodeDecodeError as error:
                raise InvalidArgument(
                    f"{self._split.file.path}, byte {begins}: this line is not UTF-8: {error}"
                ) from None
