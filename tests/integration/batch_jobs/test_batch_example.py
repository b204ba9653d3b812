"""`examples/batch` through the operator: killed on the way, and every row with its known answer."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.local.ray_cluster import RayCluster
from tests.support.batch_example import run_example, start_chat

pytestmark = pytest.mark.ray


@pytest.mark.timeout(900)
def test_a_killed_job_gives_each_row_its_answer(cluster: RayCluster, tmp_path: Path) -> None:
    with ExitStack() as stack:
        env = {**cluster.client_env, "RAY_ADDRESS": cluster.address, "MESH_DIR": str(start_chat(tmp_path, stack))}
        said = run_example("demo", "--rows", "600", "--kills", "1", env=env, timeout_s=240)
    assert re.search(r"^killed when (3\d\d|[45]\d\d) rows were committed$", said, re.MULTILINE), said
    ended = re.search(r"^finished: 600 rows, (\d+) of them in this run$", said, re.MULTILINE)
    assert ended is not None, said
    assert 0 < int(ended[1]) <= 300
    assert "600 rows, each once, each with its right answer" in said


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """Killed twice with a Ray cluster of its own."""
    with ExitStack() as stack:
        env = {"MESH_DIR": str(start_chat(tmp_path, stack))}
        said = run_example("demo", "--full", env=env, timeout_s=3500)
    assert said.count("killed when ") == 2
    assert "100,000 rows, each once, each with its right answer" in said
