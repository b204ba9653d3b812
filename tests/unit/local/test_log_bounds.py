"""Logs of a local mesh stay small while processes go on writing to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.local.log_bounds import bound_logs, log_files


def test_a_large_log_is_copied_and_emptied_under_its_writers(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "replicas" / "default" / "digits" / "main" / "main-r1-0.log"
    log.parent.mkdir(parents=True)
    with log.open("ab", buffering=0) as one, log.open("ab", buffering=0) as other:
        one.write(b"a" * 60)
        other.write(b"b" * 60)
        bound_logs(tmp_path, 200)
        assert log.stat().st_size == 120
        bound_logs(tmp_path, 100)
        one.write(b"one\n")
        other.write(b"other\n")
        assert log.read_bytes() == b"one\nother\n"
        old = log.with_name("main-r1-0.log.1")
        assert old.read_bytes() == b"a" * 60 + b"b" * 60
        one.write(b"c" * 200)
        bound_logs(tmp_path, 100)
        assert old.read_bytes() == b"one\nother\n" + b"c" * 200
    assert log.read_bytes() == b""
    assert list(log_files(tmp_path)) == [log]


def test_logs_of_all_parts_are_looked_at(tmp_path: Path) -> None:
    files = ["logs/keeper-0.log", "logs/masters/default.digits.log", "etcd/etcd-0/etcd.log", "ray/east/ray.log"]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 10)
    (tmp_path / "ray" / "east" / "ray" / "session").mkdir(parents=True)
    (tmp_path / "ray" / "east" / "ray" / "session" / "gcs.log").write_text("Ray's own, which it bounds by itself")
    assert {str(path.relative_to(tmp_path)) for path in log_files(tmp_path)} == set(files)
    bound_logs(tmp_path, 1)
    assert [(tmp_path / name).stat().st_size for name in files] == [0, 0, 0, 0]


def test_a_log_that_cannot_be_copied_is_emptied_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    log = tmp_path / "logs" / "agent-east.log"
    log.parent.mkdir()
    log.write_text("x" * 10)
    bound_logs(tmp_path, 1)
    assert log.stat().st_size == 0
    assert os.listdir(log.parent) == ["agent-east.log"]
