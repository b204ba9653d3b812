"""What is dangerous about gptcache stays off. Each in a process of its own: an import happens once."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('unpickled', 'w').close()",))


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_nothing_is_installed_while_it_runs(tmp_path: Path) -> None:
    found = python(
        "import subprocess\n"
        "def forbidden(*a, **k): raise SystemExit('a process was started')\n"
        "subprocess.check_call = subprocess.Popen.__init__ = forbidden\n"
        "import serving.cache.gptcache_frame\n"
        "from gptcache.utils import import_pymilvus\n"
        "import_pymilvus()\n",
        tmp_path,
    )
    assert "never installs packages" in found.stderr
    assert "FailedPrecondition" in found.stderr


def test_a_pickle_in_the_working_directory_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "data_map.txt").write_bytes(pickle.dumps(Bomb()))
    found = python("import serving.cache.gptcache_frame", tmp_path)
    assert "would be unpickled" in found.stderr
    assert not (tmp_path / "unpickled").exists()


def test_an_earlier_import_is_refused(tmp_path: Path) -> None:
    found = python("import gptcache\nimport serving.cache.gptcache_frame", tmp_path)
    assert "was imported before" in found.stderr


def test_the_import_leaves_no_files_behind(tmp_path: Path) -> None:
    found = python("import serving.cache.semantic_cache", tmp_path)
    assert found.returncode == 0, found.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_logging_of_the_process_stays_as_it_is(tmp_path: Path) -> None:
    found = python(
        "import logging\nimport serving.cache.gptcache_frame\nprint(logging.root.handlers, logging.root.level)",
        tmp_path,
    )
    assert found.stdout.strip() == "[] 30", found.stderr
