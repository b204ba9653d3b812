"""`make demo` ends only the mesh that it started."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.digits import demo
from serving.errors import AlreadyExists, Unavailable


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    folders: list[Path] = []
    monkeypatch.setattr("sys.argv", ["demo", "--dir", str(tmp_path)])
    monkeypatch.setattr(demo, "load_split", lambda: None)
    monkeypatch.setattr(demo, "down", lambda folder, _say: folders.append(folder))
    return folders


def test_a_mesh_that_another_run_started_goes_on(
    ended: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AlreadyExists("a mesh is running")

    monkeypatch.setattr(demo, "up", refuse)
    assert demo.main() == 1
    assert "make demo: a mesh is running" in capsys.readouterr().err
    assert ended == []


def test_its_own_mesh_is_ended_whatever_happens_on_it(
    ended: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> bool:
        raise Unavailable("nobody answers")

    monkeypatch.setattr(demo, "up", lambda *_: None)
    monkeypatch.setattr(demo, "deploy_and_ask", fail)
    assert demo.main() == 1
    assert ended == [tmp_path]


@pytest.mark.parametrize(("correct", "status"), [(True, 0), (False, 1)])
def test_its_status_says_whether_the_answers_were_right(
    ended: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, correct: bool, status: int
) -> None:
    monkeypatch.setattr(demo, "up", lambda *_: None)
    monkeypatch.setattr(demo, "deploy_and_ask", lambda *_: correct)
    assert demo.main() == status
    assert ended == [tmp_path]
