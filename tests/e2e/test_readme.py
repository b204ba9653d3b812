"""The README's tour, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import load_spec
from serving.sdk import parse_spec
from tests.support.mesh import DIGITS, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
TOUR = (ROOT / "README.md").read_text().partition("## Five minutes")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TOUR, flags=re.S)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A shell of a user who has set up: the `mesh` command on the path, a mesh folder of its own."""
    venv = str(Path(sys.executable).parent)
    env = {**os.environ, "MESH_DIR": str(tmp_path / "mesh"), "PATH": f"{venv}:{os.environ['PATH']}"}
    env.pop("MESH_CONFIG", None)
    yield env
    subprocess.run(["mesh", "down"], env=env, cwd=ROOT, capture_output=True, check=False)


def test_tour_runs(environment: dict[str, str]) -> None:
    ran = 0
    for language, text in BLOCKS:
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-e", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{text}\n--- said\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if language == "python":
            assert done.stdout.strip() == "[7]"
        ran += 1
    assert ran >= 5


def test_tour_shows_the_example() -> None:
    shown = next(text for language, text in BLOCKS if language == "yaml")
    assert parse_spec(shown.replace("./models", str(DIGITS.parent / "models"))).to_spec() == load_spec(DIGITS).to_spec()
