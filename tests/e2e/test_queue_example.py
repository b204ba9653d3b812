"""The example of requests that wait, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from serving import MeshClient, load_spec
from tests.support.mesh import ROOT, RunningMesh

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
EXAMPLE = ROOT / "examples" / "queue"


def test_the_demonstration(mesh: RunningMesh, client: MeshClient) -> None:
    application = load_spec(EXAMPLE / "app.yaml")
    client.deploy(application, wait=True, timeout_s=240)
    try:
        command = [sys.executable, "-m", "examples.queue.demo", "--dir", str(mesh.mesh_dir)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert len(re.findall(r"strike \d+: [\d.]+ ± [\d.]+, exactly [\d.]+", ran.stdout)) == 9, ran.stdout
        assert "repeated: True" in ran.stdout
        assert "and the long one is RUNNING" in ran.stdout
        assert re.search(r"cancelled: \S+ is CANCELLED", ran.stdout), ran.stdout
        states = [item.state for item in client.queue.list(application.name)]
        assert sorted(states) == ["CANCELLED", *["SUCCEEDED"] * 9]
    finally:
        client.delete(application.name, wait=True)
