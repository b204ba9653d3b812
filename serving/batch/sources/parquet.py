"""Parquet files, by row groups. A row's position is its number in its file."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch.checkpoint.identifiers import IDENTIFIER, identifiers_of, json_text
from serving.batch.sources.base import ROWS_IN_PIECE
from serving.batch.sources.files import FileSource
from serving.batch.sources.splits import Listed, Split
from serving.errors import InvalidArgument


class ParquetSource(FileSource):
    """Columns keep their types."""

    kind = "parquet"
    suffixes = (".parquet",)

    def splits(self, file: Listed, target: int) -> Iterator[tuple[Split, int]]:
        metadata = _metadata(file)
        start = size = 0
        for group in range(metadata.num_row_groups):
            size += metadata.row_group(group).total_byte_size
            if size >= target or group == metadata.num_row_groups - 1:
                yield Split(file, start, group + 1), size
                start, size = group + 1, 0

    def read_split(self, split: Split) -> Iterator[pa.Table]:
        with pq.ParquetFile(split.file.path) as parquet:
            at = sum(parquet.metadata.row_group(group).num_rows for group in range(split.start))
            groups = list(range(split.start, split.end))
            for batch in parquet.iter_batches(batch_size=ROWS_IN_PIECE, row_groups=groups):
                yield with_identifiers(pa.Table.from_batches([batch]), self.identifier, split.file.name, at)
                at += batch.num_rows

    def rows_of(self, file: Listed) -> int:
        return int(_metadata(file).num_rows)


def with_identifiers(table: pa.Table, column: str, file: str, at: int) -> pa.Table:
    """Adds the column `__row__` to rows of a file, of which the first is number `at`."""
    if column and column not in table.column_names:
        raise InvalidArgument(f"{file}: there is no column `{column}`, which the source names as the identifier's")
    rows = table.select([column]).to_pylist() if column else table.to_pylist()
    contents = (json_text(row).encode() for row in rows)
    ids = identifiers_of(rows, column, file, range(at, at + len(rows)), contents)
    return table.append_column(IDENTIFIER, pa.array(ids, type=pa.string()))


def _metadata(file: Listed) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file.path)
    except pa.ArrowInvalid as error:
        raise InvalidArgument(f"{file.path}: this is no Parquet file: {error}") from None
