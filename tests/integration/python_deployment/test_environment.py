"""Packages of a Python deployment, installed by the real pip from wheels of the test's own."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.errors import FailedPrecondition, NotFound
from serving.process_id import ProcessId
from serving.python_deployment import environment


def wheel(folder: Path, name: str, *, needs: str = "") -> str:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "WHO = 'me'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


def config(cache: Path, *pip: str, code: pb.Artifact | None = None) -> pb.ReplicaConfig:
    python = pb.PythonDeployment(entry="m:C", code=code, runtime_env=pb.PythonEnvironment(pip=pip))
    return pb.ReplicaConfig(cache_dir=str(cache), python=python)


@pytest.fixture(autouse=True)
def without_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_nothing_is_asked_for_and_nothing_is_done(tmp_path: Path) -> None:
    assert environment.prepare(config(tmp_path)) == ()
    assert list(tmp_path.iterdir()) == []


def test_packages_are_installed_once_per_node(tmp_path: Path) -> None:
    wanted = config(tmp_path / "cache", wheel(tmp_path, "first"))
    (folder,) = environment.prepare(wanted)
    assert (folder / "first.py").read_text() == "WHO = 'me'\n"
    marker = folder / "marker"
    marker.touch()
    assert environment.prepare(wanted) == (folder,)
    assert marker.exists()
    (other,) = environment.prepare(config(tmp_path / "cache", wheel(tmp_path, "second")))
    assert other != folder


def test_the_code_comes_before_the_packages(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "m.py").write_text("class C: ...\n")
    artifact = pack(source, (tmp_path / "store").as_uri())
    code, packages = environment.prepare(config(tmp_path / "cache", wheel(tmp_path, "first"), code=artifact))
    assert (code / "m.py").exists()
    assert (packages / "first.py").exists()


def test_a_conflict_with_the_mesh_is_named_and_nothing_stays(tmp_path: Path) -> None:
    wanted = config(tmp_path / "cache", wheel(tmp_path, "old", needs="numpy==1.0"))
    with pytest.raises(FailedPrecondition, match=r"pip cannot install .*old-1.0.*numpy"):
        environment.prepare(wanted)
    assert {entry.name for entry in (tmp_path / "cache" / "python").iterdir()} == {".locks", ".users"}


def test_code_that_is_gone(tmp_path: Path) -> None:
    gone = pb.Artifact(uri=(tmp_path / "gone.tar").as_uri(), digest="sha256:" + "0" * 64, size_bytes=10)
    with pytest.raises(NotFound):
        environment.prepare(config(tmp_path / "cache", code=gone))


def test_packages_that_nobody_has_used_for_a_day_are_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (mine,) = environment.prepare(config(cache, wheel(tmp_path, "first")))
    old = cache / "python" / "0123"
    users = cache / "python" / ".users" / "0123"
    for folder in (old, users):
        folder.mkdir()
    yesterday = time.time() - 25 * 3600
    os.utime(users, (yesterday, yesterday))
    environment.prepare(config(cache, wheel(tmp_path, "first")))
    assert mine.is_dir()
    assert not old.exists()
    assert not users.exists()
    assert {entry.name for entry in (cache / "python").iterdir()} == {mine.name, ".locks", ".users"}


def test_what_processes_that_died_left_is_removed_and_what_runs_is_not(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "python"
    me = ProcessId.of(os.getpid())
    dead = ProcessId(me.pid, me.start_ticks + 1, me.boot_id, "")
    for owner in (me, dead):
        for kind in ("partial", "grave"):
            (root / f".{kind}.{owner}.0123" / "deep").mkdir(parents=True)
        (root / f".partial.{owner}.0123.constraints").touch()
    wanted = config(tmp_path / "cache", wheel(tmp_path, "first"))
    (folder,) = environment.prepare(wanted)
    left = {entry.name for entry in root.iterdir()} - {folder.name, ".locks", ".users"}
    assert left == {f".partial.{me}.0123", f".grave.{me}.0123", f".partial.{me}.0123.constraints"}
    users = root / ".users" / folder.name
    (users / str(dead)).touch()
    environment.prepare(wanted)
    assert [entry.name for entry in users.iterdir()] == [str(me)]


def test_another_process_may_tidy_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(tmp_path / "cache", wheel(tmp_path, "first"))
    environment.prepare(wanted)
    gone = tmp_path / "cache" / "python" / ".users" / "0123"
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: [*listed(self), *([gone] if self == gone.parent else [])])
    assert environment.prepare(wanted)


def test_options_of_pip_in_the_environment_choose_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(tmp_path / "cache", wheel(tmp_path, "first"))
    before = environment.prepare(wanted)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert environment.prepare(wanted) != before
