"""Sources without an end: what has arrived is a batch, nothing is taken twice, nothing is forgotten."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from serving.batch.sources import FolderSource, JsonlSource, KafkaSource
from serving.batch.sources.folder import END
from serving.errors import FailedPrecondition, InvalidArgument
from tests.support.batch_parts import write_jsonl


def names(plan: object) -> list[str]:
    assert isinstance(plan, dict)
    return [name for name, _, _ in plan["files"]]


def put(folder: Path, name: str, age: int) -> None:
    write_jsonl(folder / name, [{"n": 1}])
    os.utime(folder / name, (1_000_000 - age, 1_000_000 - age))


def test_files_that_arrive_are_batches_of_bounded_size(tmp_path: Path) -> None:
    source = FolderSource(JsonlSource(tmp_path), max_files=2)
    assert source.plan({}) is None
    assert not source.ended({})
    for name, age in (("a.jsonl", 1), ("b.jsonl", 3), ("c.jsonl", 2), ("_d.jsonl", 9), (".e.jsonl", 9)):
        put(tmp_path, name, age)
    first = source.plan({})
    assert names(first) == ["b.jsonl", "c.jsonl"]
    position = source.advance({}, first or {})
    assert [file.name for file in source.backlog(position)] == ["a.jsonl"]
    (tmp_path / END).touch()
    assert not source.ended(position)
    second = source.plan(position)
    assert names(second) == ["a.jsonl"]
    (tmp_path / "b.jsonl").unlink()
    position = source.advance(position, second or {})
    assert position == {"taken": ["a.jsonl", "c.jsonl"]}
    assert source.plan(position) is None
    assert source.ended(position)


def test_a_batch_stops_growing_at_its_bytes(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"{number}.jsonl", 9 - number)
    assert len(names(FolderSource(JsonlSource(tmp_path), max_bytes=10).plan({}))) == 2


def test_only_one_folder_can_grow(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="one folder"):
        FolderSource(JsonlSource(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="above 0"):
        FolderSource(JsonlSource(tmp_path), max_files=0)


class Topic(KafkaSource):
    """With the bounds of a topic that a test sets, in place of a broker's."""

    bounds: dict[str, tuple[int, int]]

    def _bounds(self) -> dict[str, tuple[int, int]]:
        return self.bounds


def test_a_topic_is_read_in_ranges_of_offsets() -> None:
    topic = Topic("localhost:1", "t", max_rows=10, until_latest=True)
    topic.bounds = {"0": (5, 12), "1": (0, 6)}
    plan = topic.plan({})
    assert plan == {"ranges": {"0": (5, 12), "1": (0, 3)}, "until": {"0": 12, "1": 6}}
    assert topic.rows(plan) == 10
    topic.bounds = {"0": (5, 40), "1": (0, 60)}
    position = topic.advance({}, plan)
    assert not topic.ended(position)
    plan = topic.plan(position)
    assert plan is not None
    assert plan["ranges"] == {"1": (3, 6)}
    position = topic.advance(position, plan)
    assert topic.plan(position) is None
    assert topic.ended(position)


@pytest.mark.skipif(importlib.util.find_spec("confluent_kafka") is not None, reason="the package is there")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="pip install confluent-kafka"):
        KafkaSource("localhost:1", "t").plan({})
