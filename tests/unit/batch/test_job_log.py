"""The log and the folder of a job: fences, torn and missing entries, other jobs' folders, parts that are gone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from serving.batch.checkpoint import Checkpoint, Files, Overtaken
from serving.batch.checkpoint.log import Log
from serving.batch.sinks.lines import JsonlFormat
from serving.errors import DataLoss, FailedPrecondition, NotSupported
from tests.support.batch_parts import rows_of, written

_FORMAT = JsonlFormat()
_WHAT = {"source": "a"}


def opened(folder: Path) -> Checkpoint:
    return Checkpoint(Files(folder), _WHAT, _FORMAT)


def begun(folder: Path, *rows: int) -> Checkpoint:
    checkpoint = opened(folder)
    checkpoint.begin({})
    if rows:
        checkpoint.take(written(Files(folder), checkpoint, [{"n": row} for row in rows], _FORMAT))
        checkpoint.commit()
    return checkpoint


def numbers(checkpoint: Checkpoint, folder: Path) -> list[int]:
    return sorted(row["n"] for row in rows_of(Files(folder), checkpoint))


def test_of_many_drivers_that_start_at_once_the_last_one_goes_on(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    ready = threading.Barrier(8)
    outcomes: list[Checkpoint | None] = []

    def start() -> None:
        ready.wait()
        try:
            outcomes.append(opened(tmp_path))
        except Overtaken:
            outcomes.append(None)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = sorted((one for one in outcomes if one is not None), key=lambda one: one.epoch)
    assert started
    assert len({one.epoch for one in started}) == len(started)
    for older in started[:-1]:
        with pytest.raises(Overtaken):
            older.finish()
    started[-1].finish()


def test_a_driver_that_was_overtaken_commits_nothing_even_where_its_number_was_freed(tmp_path: Path) -> None:
    older = begun(tmp_path, 1)
    older.take(written(Files(tmp_path), older, [{"n": 2}], _FORMAT))
    newer = opened(tmp_path)
    newer.finish()
    newer.published({}, [])  # sums up: what the older one would write next is free again
    newer.end()
    with pytest.raises(Overtaken):
        older.commit()
    state = opened(tmp_path).state
    assert (state.batches, state.published.rows, state.ended) == (1, 1, True)


def test_a_torn_entry_counts_as_void(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path, 1)
    checkpoint.take(written(Files(tmp_path), checkpoint, [{"n": 2}], _FORMAT))
    checkpoint.commit()
    last = max((tmp_path / "log").glob("*.json"))
    last.write_bytes(last.read_bytes()[:40])
    again = opened(tmp_path)
    assert numbers(again, tmp_path) == [1]
    again.take(written(Files(tmp_path), again, [{"n": 2}], _FORMAT))
    again.commit()
    assert numbers(opened(tmp_path), tmp_path) == [1, 2]


def test_a_changed_entry_is_not_believed(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    last = max((tmp_path / "log").glob("*.json"))
    record = json.loads(last.read_bytes())
    record["entry"]["parts"] = []
    last.write_text(json.dumps(record))
    assert numbers(opened(tmp_path), tmp_path) == []


def test_missing_entries_are_told(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    (tmp_path / "log" / "000000000002.json").unlink()
    with pytest.raises(DataLoss, match="entries 2 to 2 are missing"):
        opened(tmp_path)


def test_rows_of_a_part_that_is_gone_are_not_finished_ever_again(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path, 1, 2)
    part = next((tmp_path / "parts" / "1").glob("*.jsonl"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    again = opened(tmp_path)
    assert again.state.batch is not None
    assert numbers(again, tmp_path) == []
    part.write_bytes(whole)
    assert numbers(opened(tmp_path), tmp_path) == []
    with pytest.raises(Overtaken):
        checkpoint.finish()


def test_rows_that_come_twice_count_once(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path, 1, 2)
    taken = checkpoint.take(written(Files(tmp_path), checkpoint, [{"n": n} for n in (2, 3, 3, 4)], _FORMAT))
    assert taken.counts.rows == 2
    assert checkpoint.duplicates == 2
    checkpoint.commit()
    assert numbers(opened(tmp_path), tmp_path) == [1, 2, 3, 4]


def test_what_no_entry_names_is_removed(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path, 1)
    written(Files(tmp_path), checkpoint, [{"n": 2}], _FORMAT)
    (tmp_path / "parts" / "1" / f"{checkpoint.epoch}-feed.jsonl").write_text("half")
    newest = opened(tmp_path)
    written(Files(tmp_path), newest, [{"n": 3}], _FORMAT)
    assert len(list((tmp_path / "parts" / "1").iterdir())) == 4  # of row 1 and of row 3, each with its identifiers
    newest.finish()
    newest.published({"read": True}, ["out"])
    assert not list((tmp_path / "parts").iterdir())
    assert len(list((tmp_path / "log").iterdir())) == 1


def test_another_jobs_folder_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(FailedPrecondition, match="has source 'a', this one 'b'"):
        Checkpoint(Files(tmp_path), {"source": "b"}, _FORMAT)
    with pytest.raises(NotSupported, match="s3://"):
        Files("s3://bucket/job")


def test_a_log_can_be_read_while_it_is_shortened(tmp_path: Path) -> None:
    files = Files(tmp_path)
    writer = Log(files)
    writer.read()
    done = threading.Event()

    def write() -> None:
        for number in range(150):
            entry = writer.append({"kind": "summary", "summary": True, "number": number})
            writer.shorten(entry)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        entries = Log(files).read()
        assert len(entries) <= 2
    thread.join()
