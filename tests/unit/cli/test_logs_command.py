"""`mesh logs`: files merged by time, read from their ends, and followed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from cli_fakes import FakeMesh
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from serving.cli.log_tail import BLOCK_BYTES, Source, Tail, backwards, last_lines

Run = Callable[..., Result]


def line(second: int, text: str, level: str = "info") -> str:
    return json.dumps({"ts": f"2026-01-01T00:00:{second:02d}.000Z", "level": level, "msg": text, "pid": 7}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    master = tmp_path / "logs" / "masters" / "default.digits.log"
    replicas = tmp_path / "logs" / "replicas" / "default" / "digits" / "digits"
    master.parent.mkdir(parents=True)
    replicas.mkdir(parents=True)
    master.write_text(line(1, "starting") + line(4, "ready"))
    (replicas / "digits-r1-0.log").write_text(line(2, "loading") + "plain words\n" + line(5, "broken", "error"))
    (replicas / "digits-r1-1.log").write_text(line(3, "loading"))
    return tmp_path


def test_logs_are_merged_by_time(run: Run, folder: Path) -> None:
    result = run("logs", "digits", "--dir", str(folder))
    assert [text.split("  ")[0] for text in result.stdout.splitlines()] == [
        "master",
        "digits-r1-0",
        "digits-r1-0",
        "digits-r1-1",
        "master",
        "digits-r1-0",
    ]
    assert "digits-r1-0  plain words" in result.stdout
    assert "2026-01-01T00:00:05.000Z ERROR broken  pid=7" in result.stdout
    assert len(run("logs", "digits", "--dir", str(folder), "--tail", "2").stdout.splitlines()) == 2


def test_logs_of_a_deployment_a_replica_and_a_level(run: Run, folder: Path) -> None:
    assert "master" not in run("logs", "digits/digits", "--dir", str(folder)).stdout
    one = run("logs", "digits/digits/digits-r1-1", "--dir", str(folder), "--json")
    assert json.loads(one.stdout)["record"]["msg"] == "loading"
    errors = run("logs", "digits", "--dir", str(folder), "--level", "error")
    assert "broken" in errors.stdout
    assert "loading" not in errors.stdout


def test_logs_that_are_not_there(run: Run, folder: Path) -> None:
    result = run("logs", "digits/digits/digits-r9-9", "--dir", str(folder))
    assert result.exit_code == 3
    assert "there are logs of: digits/digits-r1-0, digits/digits-r1-1" in result.stderr
    assert run("logs", "nothing", "--dir", str(folder)).exit_code == 3
    assert run("logs", "a/b/c/d", "--dir", str(folder)).exit_code == 2


def test_logs_of_other_machines_are_named_with_their_nodes(run: Run, fake: FakeMesh, folder: Path) -> None:
    for row, node in zip(fake.apps["digits"].status.deployments[0].replicas, ("n0", "gone"), strict=True):
        row.node = node
    here = run("logs", "digits", "--dir", str(folder))
    assert here.exit_code == 0
    path = folder / "logs" / "replicas" / "default" / "digits" / "digits"
    assert (
        f"digits-r2-0 runs on node 10.0.0.7 of cluster east: its log is {path / 'digits-r2-0.log'} there" in here.stderr
    )
    assert "digits-r2-1 runs on node gone of cluster east" in here.stderr
    assert "the master runs" not in here.stderr
    one = run("logs", "digits/digits/digits-r2-0", "--dir", str(folder))
    assert one.exit_code == 3
    assert "10.0.0.7" in one.stderr
    assert "digits-r2-1" not in one.stderr
    (path / "digits-r2-0.log").write_text(line(6, "here"))
    assert "digits-r2-0 runs" not in run("logs", "digits", "--dir", str(folder)).stderr


def test_a_followed_file_grows_is_cut_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = Tail(Source("x", path))
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    assert tail.lines() == ["two"]
    path.write_text("new\n")
    assert tail.lines() == ["new"]
    other = tmp_path / "y.log"
    other.write_text("replaced\n")
    other.replace(path)
    assert tail.lines() == ["replaced"]
    assert [text for _, text in last_lines([tail], 5)] == ["replaced"]
    assert last_lines([tail], 0) == []
    assert tail.lines() == []
    tail.close()


@given(st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")), st.integers(1, 7))
def test_lines_are_found_backwards_whatever_the_blocks(data: bytes, block: int) -> None:
    with patch("serving.cli.log_tail.BLOCK_BYTES", block):
        assert list(backwards(io.BytesIO(data), len(data)))[::-1] == data.split(b"\n")


def test_the_newest_lines_are_read_from_the_end(run: Run, folder: Path) -> None:
    """Of a large file only its end is read, and a level is chosen before lines are counted."""
    path = folder / "logs" / "replicas" / "default" / "digits" / "digits" / "digits-r1-0.log"
    old = [line(1, "old" * 100) for _ in range(20 * BLOCK_BYTES // 300)]
    path.write_text("".join(old) + line(2, "broken", "error") + "".join(line(3, "new") for _ in range(50)) + "cut")
    tail = Tail(Source("x", path))
    assert [json.loads(text)["msg"] for text in tail.newest(2, lambda _: True)] == ["new", "new"]
    with path.open("a") as file:
        file.write(" here\nand")
    assert tail.lines() == ["cut here"]
    read = 0

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            found = super().read(size) or b""
            read += len(found)
            return found

    with Counting(path) as counting:
        ends = backwards(counting, path.stat().st_size)
        assert [next(ends) for _ in range(2)] == [b"and", b"cut here"]
    assert 0 < read <= BLOCK_BYTES
    shown = run("logs", "digits/digits/digits-r1-0", "--dir", str(folder), "--level", "error", "--tail", "2").stdout
    assert "ERROR broken" in shown
    assert "old" not in shown
