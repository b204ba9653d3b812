"""Sources of files: every row once at any splitting, with the same identifier, unchanged."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batch.checkpoint import IDENTIFIER
from serving.batch.sources import CsvSource, JsonlSource, ParquetSource
from serving.batch.sources.files import FileSource, files_of, listed
from serving.batch.sources.splits import grouped
from serving.errors import DataLoss, InvalidArgument, NotFound, NotSupported
from tests.support.batch_parts import without_identifier, write_jsonl


def read(source: FileSource, target: int) -> tuple[list[dict[str, object]], list[str]]:
    plan = source.plan({})
    assert plan is not None
    tables = []
    for file in files_of(plan):
        for split, _ in source.splits(file, target):
            tables.extend(source.read_split(split))
    ids = [one for table in tables for one in table.column(IDENTIFIER).to_pylist()]
    return without_identifier(iter(tables)), ids


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"a": _JSON, "b": _JSON}), min_size=1, max_size=20), target=st.integers(1, 90)
)
def test_json_lines_come_unchanged_however_they_are_split(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], target: int
) -> None:
    path = tmp_path_factory.mktemp("in") / "rows.jsonl"
    write_jsonl(path, rows)
    whole, ids = read(JsonlSource(path), 1 << 30)
    assert whole == rows
    assert len(set(ids)) == len(rows)
    assert read(JsonlSource(path), target) == (whole, ids)


_FIELD = st.text(alphabet='ab",\n\r é', max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(_FIELD, _FIELD), min_size=1, max_size=20), target=st.integers(1, 60))
def test_a_csv_is_never_cut_within_quotes(
    tmp_path_factory: pytest.TempPathFactory, rows: Sequence[tuple[str, str]], target: int
) -> None:
    path = tmp_path_factory.mktemp("in") / "rows.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("one", "two"), *rows])
    path.write_bytes(text.getvalue().encode())
    whole, ids = read(CsvSource(path), 1 << 30)
    assert [tuple(row.values()) for row in whole] == rows
    assert len(set(ids)) == len(rows)
    assert read(CsvSource(path), target) == (whole, ids)


def test_long_fields_of_a_csv_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a\n{'x' * 300_000}\n")
    assert len(str(read(CsvSource(tmp_path), 1 << 20)[0][0]["a"])) == 300_000


def test_parquet_is_split_by_row_groups(tmp_path: Path) -> None:
    table = pa.table({"n": range(1000), "text": [f"row {n}" for n in range(1000)], "v": [[n, n] for n in range(1000)]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    source = ParquetSource(tmp_path)
    plan = source.plan({})
    assert plan is not None
    assert len(list(source.splits(files_of(plan)[0], 1))) == 10
    whole, ids = read(source, 1 << 30)
    assert whole == table.to_pylist()
    assert read(source, 1) == (whole, ids)
    assert source.rows(plan) == 1000


def test_small_files_are_read_together(tmp_path: Path) -> None:
    for number in range(600):
        write_jsonl(tmp_path / f"{number:03d}.jsonl", [{"n": number}])
    source = JsonlSource(tmp_path)
    files = listed(source.paths, source.suffixes)
    groups = grouped((pair for file in files for pair in source.splits(file, 1 << 20)), 1 << 20)
    assert [len(group) for group in groups] == [256, 256, 88]


def test_identifiers_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "sub").mkdir(parents=True)
        write_jsonl(tmp_path / name / "sub" / "a.jsonl", [{"n": 1}, {"n": 1}])
    assert read(JsonlSource(tmp_path / "here"), 9) == read(JsonlSource(tmp_path / "there"), 9)


def test_a_column_names_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": 1, "x": 1}, {"id": 2, "x": 1}])
    write_jsonl(tmp_path / "b.jsonl", [{"id": 2, "x": 2}, {"id": 1, "x": 5}])
    first = read(JsonlSource(tmp_path / "a.jsonl", identifier="id"), 99)[1]
    assert read(JsonlSource(tmp_path / "b.jsonl", identifier="id"), 99)[1] == first[::-1]
    with pytest.raises(InvalidArgument, match="no column `key`"):
        read(JsonlSource(tmp_path / "a.jsonl", identifier="key"), 99)


def test_compressed_lines_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": 2}\n'))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"n\n1\n2\n"))
    assert read(JsonlSource(tmp_path), 3)[0] == [{"n": 1}, {"n": 2}]
    assert read(CsvSource(tmp_path), 3)[0] == [{"n": "1"}, {"n": "2"}]


def test_what_is_appended_after_the_start_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"n": 1}])
    source = JsonlSource(path)
    plan = source.plan({})
    assert plan is not None
    with path.open("a") as stream:
        stream.write('{"n": 2}\n')
    ((split, _),) = source.splits(files_of(plan)[0], 99)
    assert without_identifier(source.read_split(split)) == [{"n": 1}]
    assert source.plan(source.advance({}, plan)) is None
    path.write_text("")
    with pytest.raises(DataLoss, match="put it back"):
        files_of(plan)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"n": 1}\n{"n":\n', "byte 9: this line is no JSON"),
        ("a.jsonl", b"[1]\n", "must be a JSON object"),
        ("a.csv", b"a,b\n1\n", "byte 4: this record has 1 fields, the first line 2"),
        ("a.csv", b"a,a\n1,2\n", "same name"),
        ("a.csv", b"a\n\xff\n", "not UTF-8"),
        ("a.csv", b'a\n"x\n', "no CSV"),
        ("a.parquet", b"PAR?", "no Parquet file"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = {"jsonl": JsonlSource, "csv": CsvSource, "parquet": ParquetSource}[name.partition(".")[2]]
    with pytest.raises(InvalidArgument, match=says):
        read(kind(tmp_path / name), 1 << 20)


def test_paths_that_name_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file of this kind"):
        JsonlSource(tmp_path).plan({})
    with pytest.raises(NotSupported, match="URL"):
        JsonlSource("s3://x/y").plan({})
    with pytest.raises(InvalidArgument, match="at least one"):
        JsonlSource([])
