"""A replica's own folder of models over a shared artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.deployment.model_folders import compose, digest_of
from serving.errors import Unavailable
from serving.process_id import ProcessId

DIGEST = "a" * 64


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    files = tmp_path / "artifacts" / "files"
    (files / "digits" / "1" / "weights").mkdir(parents=True)
    (files / "digits" / "config.pbtxt").write_text("config")
    (files / "digits" / "1" / "model.onnx").write_text("model")
    (files / "digits" / "1" / "weights" / "a").write_text("weights")
    (files / "shared.py").write_text("shared")
    return files


def me() -> ProcessId:
    return ProcessId.of(os.getpid())


def test_models_and_versions_are_own_folders_and_all_else_is_linked(tmp_path: Path, artifact: Path) -> None:
    folder = compose(tmp_path / "cache", artifact, DIGEST, user=me())
    version = folder / "digits" / "1"
    assert (version / "model.onnx").read_text() == "model"
    assert (version / "weights" / "a").read_text() == "weights"
    assert (folder / "shared.py").read_text() == "shared"
    assert not any(place.is_symlink() for place in (folder, folder / "digits", version))
    for linked in ("digits/config.pbtxt", "digits/1/model.onnx", "digits/1/weights", "shared.py"):
        assert (folder / linked).is_symlink()
    os.utime(version, (0, 0))
    assert (artifact / "digits" / "1").stat().st_mtime > 0, "the artifact is shared and stays as it is"
    assert digest_of(folder) == DIGEST


def test_the_folder_in_use_stays_and_earlier_ones_go(tmp_path: Path, artifact: Path) -> None:
    cache = tmp_path / "cache"
    first = compose(cache, artifact, DIGEST, user=me())
    second = compose(cache, artifact, "b" * 64, user=me(), in_use=first)
    assert first.is_dir()
    third = compose(cache, artifact, DIGEST, user=me(), in_use=second)
    assert [folder.is_dir() for folder in (first, second, third)] == [False, True, True]


def test_what_a_dead_process_left_goes(tmp_path: Path, artifact: Path) -> None:
    cache = tmp_path / "cache"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        living = compose(cache, artifact, DIGEST, user=ProcessId.of(other.pid))
        compose(cache, artifact, DIGEST, user=me())
        assert living.is_dir()
        other.communicate(b"\n")
    compose(cache, artifact, DIGEST, user=me())
    assert not living.exists()
    assert artifact.is_dir()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(Unavailable, match="cache"):
        compose(tmp_path / "cache", artifact, DIGEST, user=me())
