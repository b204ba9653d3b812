"""Which etcd is started: programs that are too old or no etcd are refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli import checks
from serving.errors import FailedPrecondition
from serving.local.etcd_binary import find_etcd


def program(folder: Path, says: str) -> Path:
    path = folder / "etcd"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.3.25", "2.3.8", "3.0"])
def test_an_old_one_is_refused(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_ETCD_BINARY", str(program(tmp_path, f"etcd Version: {version}")))
    with pytest.raises(FailedPrecondition, match=rf"etcd {version} .* too old, 3\.4 or newer is needed: install"):
        find_etcd()
    (found,) = checks.etcd()
    assert (found.state, f"etcd {version}" in found.found) == ("failed", True)
    assert found.advice


@pytest.mark.parametrize("version", ["3.4.23", "3.5.0-rc.1", "3.10.1", "4.0.0"])
def test_a_newer_one_is_taken(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, f"etcd Version: {version}")
    monkeypatch.setenv("MESH_ETCD_BINARY", str(path))
    assert find_etcd() == str(path)
    (found,) = checks.etcd()
    assert (found.state, found.found) == ("ok", f"{version} ({path})")


def test_what_is_no_etcd_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, "hello")
    monkeypatch.setenv("MESH_ETCD_BINARY", str(path))
    with pytest.raises(FailedPrecondition, match=r"hello.*which is no etcd"):
        find_etcd()
    path.write_text("no program")
    with pytest.raises(FailedPrecondition, match="cannot tell its version"):
        find_etcd()
