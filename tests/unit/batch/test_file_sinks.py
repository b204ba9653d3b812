"""Sinks of files: what was committed and no more, whole or not at all, however often they are called."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from serving.batch.checkpoint import Checkpoint, Files, Overtaken
from serving.batch.checkpoint.parts import Counts
from serving.batch.sinks import CsvSink, JsonlSink, ParquetSink, Sink
from serving.errors import AlreadyExists, InvalidArgument, NotSupported
from tests.support.batch_parts import publication_of, written

_ROWS = [
    [{"n": 1, "text": 'a "b",\nc', "x": {"k": [1]}}, {"n": 2, "text": None, "x": None}],
    [{"n": 2, "text": "again", "x": None}, {"n": 3, "text": "é", "x": [1, 2], "more": 1.5}],
]


def committed(folder: Path, sink: Sink, parts: list[list[dict[str, object]]] = _ROWS) -> Checkpoint:
    files = Files(folder)
    checkpoint = Checkpoint(files, sink.describe(), sink.part_format)
    checkpoint.begin({})
    for rows in parts:
        checkpoint.take(written(files, checkpoint, rows, sink.part_format))
    checkpoint.commit()
    checkpoint.finish()
    return checkpoint


def rows_in(sink: Sink, path: Path) -> list[dict[str, object]]:
    if isinstance(sink, JsonlSink):
        return [json.loads(line) for line in path.read_text().splitlines()]
    if isinstance(sink, CsvSink):
        with path.open(newline="") as stream:
            return list(csv.DictReader(stream))
    return list(ds.dataset(path, format="parquet", exclude_invalid_files=True).to_table().to_pylist())


@pytest.mark.parametrize("kind", [JsonlSink, CsvSink, ParquetSink])
def test_committed_rows_are_published_once(tmp_path: Path, kind: type[Sink]) -> None:
    out = tmp_path / "out" / "target"
    sink = kind(out)  # type: ignore[call-arg]
    sink.check(bounded=True)
    checkpoint = committed(tmp_path / "job", sink)
    for _ in range(2):
        assert sink.publish(publication_of(Files(tmp_path / "job"), checkpoint)) == [str(out)]
        rows = rows_in(sink, out)
        assert [int(str(row["n"])) for row in rows] == [1, 2, 3]
        assert rows[0]["text"] == 'a "b",\nc'
        assert rows[2]["text"] == "é"
    nested = rows[0]["x"]
    assert (nested if isinstance(nested, dict) else json.loads(str(nested))) == {"k": [1]}
    assert float(str(rows[2]["more"])) == 1.5
    assert sorted(path.name for path in out.parent.iterdir()) == ["target"]
    if kind is ParquetSink:
        assert (out / "_SUCCESS").exists()
    with pytest.raises(AlreadyExists, match="remove it"):
        sink.check(bounded=True)


@pytest.mark.parametrize("kind", [JsonlSink, CsvSink, ParquetSink])
def test_a_driver_that_was_overtaken_leaves_no_output(tmp_path: Path, kind: type[Sink]) -> None:
    out = tmp_path / "out" / "target"
    sink = kind(out)  # type: ignore[call-arg]
    checkpoint = committed(tmp_path / "job", sink)
    Checkpoint(Files(tmp_path / "job"), sink.describe(), sink.part_format)
    with pytest.raises(Overtaken):
        sink.publish(publication_of(Files(tmp_path / "job"), checkpoint))
    assert not out.exists() or not list(out.iterdir())


def test_what_a_driver_left_that_died_while_it_published_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "o[u]t.jsonl"
    sink = JsonlSink(out)
    checkpoint = committed(tmp_path / "job", sink)
    left = tmp_path / f".{out.name}.{checkpoint.job}-{checkpoint.epoch}"
    left.write_text("half")
    newer = Checkpoint(Files(tmp_path / "job"), sink.describe(), sink.part_format)
    sink.publish(publication_of(Files(tmp_path / "job"), newer))
    assert not left.exists()
    assert len(rows_in(sink, out)) == 3


@pytest.mark.parametrize("kind", [JsonlSink, CsvSink, ParquetSink])
def test_a_batch_without_rows_is_published_empty(tmp_path: Path, kind: type[Sink]) -> None:
    out = tmp_path / "target"
    sink = kind(out)  # type: ignore[call-arg]
    checkpoint = committed(tmp_path / "job", sink, [])
    sink.publish(publication_of(Files(tmp_path / "job"), checkpoint))
    assert out.exists()


def test_failed_rows_and_tokens_are_counted(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "o")
    files = Files(tmp_path / "job")
    checkpoint = Checkpoint(files, {}, sink.part_format)
    checkpoint.begin({})
    rows = [{"n": n, "__error__": {"code": 1} if n % 2 else None, "prompt_tokens": 2, "z": math.nan} for n in range(4)]
    part = checkpoint.take(written(files, checkpoint, rows, sink.part_format))
    assert part.counts == Counts(rows=4, errors=2, prompt_tokens=8)
    again = checkpoint.take(written(files, checkpoint, [rows[3], {**rows[1], "n": 9}], sink.part_format))
    assert again.counts == Counts(rows=1, errors=1, prompt_tokens=2)
    checkpoint.commit()
    checkpoint.finish()
    sink.publish(publication_of(files, checkpoint))
    assert rows_in(sink, tmp_path / "o")[0]["z"] is None


def test_text_that_no_encoding_has_stops_nothing(tmp_path: Path) -> None:
    half = {"n": 1, "text": "\ud800", "x": ["\udfff", "é"]}
    for kind in (JsonlSink, CsvSink, ParquetSink):
        sink = kind(tmp_path / f"{kind.__name__}")
        checkpoint = committed(tmp_path / f"job-{kind.__name__}", sink, [[half]])
        sink.publish(publication_of(Files(tmp_path / f"job-{kind.__name__}"), checkpoint))
    assert rows_in(JsonlSink(""), tmp_path / "JsonlSink") == [half]
    assert rows_in(ParquetSink(""), tmp_path / "ParquetSink")[0]["text"] == "?"


def test_columns_of_types_that_do_not_fit_are_told(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / "out")
    checkpoint = committed(tmp_path / "job", sink, [[{"n": 1, "x": 5}], [{"n": 2, "x": "five"}]])
    with pytest.raises(InvalidArgument, match="do not fit together"):
        sink.publish(publication_of(Files(tmp_path / "job"), checkpoint))


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="URL"):
        JsonlSink("s3://b/c")
    with pytest.raises(InvalidArgument, match="batch by batch"):
        JsonlSink(tmp_path / "a").check(bounded=False)
    JsonlSink(tmp_path / "a-{batch}").check(bounded=False)
