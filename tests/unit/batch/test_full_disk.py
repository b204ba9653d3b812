"""A disk that is full (a limit of the size of files, kept by the kernel): nothing half is left, work goes on after."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.batch.checkpoint import Checkpoint, DiskFull, Files
from serving.batch.checkpoint.parts import PartWriter, while_disk_is_full
from serving.batch.sinks import JsonlSink
from serving.batch.sinks.lines import JsonlFormat
from tests.support.batch_parts import publication_of, rows_of, table_of_rows, written

_FORMAT = JsonlFormat()
_LARGE = [{"n": n, "text": "x" * 100} for n in range(500)]


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_part_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path)
    checkpoint = Checkpoint(files, {}, _FORMAT)
    checkpoint.begin({})
    with files_no_longer_than(20_000), pytest.raises(DiskFull, match="free some space"):
        written(files, checkpoint, _LARGE, _FORMAT)
    assert not list((tmp_path / "parts" / "1").iterdir())


def test_a_worker_waits_for_room(tmp_path: Path) -> None:
    checkpoint = Checkpoint(Files(tmp_path), {}, _FORMAT)
    checkpoint.begin({})
    writer = PartWriter(str(tmp_path), 1, checkpoint.epoch, _FORMAT, disk_wait_s=60.0)
    table = table_of_rows(_LARGE)
    tried = threading.Event()
    parts = []

    def work() -> None:
        parts.append(writer.write(table))

    with files_no_longer_than(20_000):
        with pytest.raises(DiskFull):
            while_disk_is_full(lambda: _fails_and_tells(tmp_path, tried), 0.0)
        thread = threading.Thread(target=work)
        thread.start()
        assert tried.wait(30)
    thread.join(60)
    checkpoint.take(parts[0])
    checkpoint.commit()
    assert len(list(rows_of(Files(tmp_path), checkpoint))) == len(_LARGE)


def _fails_and_tells(folder: Path, tried: threading.Event) -> int:
    try:
        return Files(folder).write_bytes("parts/ballast", b"x" * 30_000)
    finally:
        tried.set()


def test_a_commit_that_does_not_fit_can_be_made_again(tmp_path: Path) -> None:
    files = Files(tmp_path)
    checkpoint = Checkpoint(files, {}, _FORMAT)
    checkpoint.begin({})
    checkpoint.take(written(files, checkpoint, [{"n": 1}], _FORMAT))
    with files_no_longer_than(10), pytest.raises(DiskFull):
        checkpoint.commit()
    assert not [path for path in (tmp_path / "log").iterdir() if path.name.startswith(".")]
    checkpoint.commit()
    assert [row["n"] for row in rows_of(files, Checkpoint(files, {}, _FORMAT))] == [1]


def test_an_output_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "out" / "rows.jsonl")
    files = Files(tmp_path / "job")
    checkpoint = Checkpoint(files, sink.describe(), _FORMAT)
    checkpoint.begin({})
    checkpoint.take(written(files, checkpoint, _LARGE, _FORMAT))
    checkpoint.commit()
    checkpoint.finish()
    with files_no_longer_than(20_000), pytest.raises(DiskFull):
        sink.publish(publication_of(files, checkpoint))
    assert not list((tmp_path / "out").iterdir())
    sink.publish(publication_of(files, checkpoint))
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == len(_LARGE)
