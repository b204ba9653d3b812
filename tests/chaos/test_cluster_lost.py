"""A whole Ray cluster dies: its application answers again from the other one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import MeshClient
from tests.support.mesh import RunningMesh, deploy_digits, start_mesh, stop_mesh
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path / "mesh", clusters=2)
    yield running
    stop_mesh(running)


def test_application_moves(own_mesh: RunningMesh, expected: list[int]) -> None:
    with MeshClient(own_mesh.connection) as client:
        deploy_digits(client)
        first = client.status("digits")
        with Traffic(own_mesh.connection, expected, timeout_s=240) as traffic:
            own_mesh.ray(first.cluster).kill()
            traffic.wait_for(50, timeout_s=240)
            print(f"answers again {traffic.outcome.longest_gap_s():.1f} s after the cluster was killed")
        moved = client.status("digits")
        assert moved.cluster != first.cluster
        assert moved.generation == first.generation + 1
        eventually(
            lambda: {endpoint.cluster for endpoint in client.endpoints("digits")} == {moved.cluster},
            timeout_s=60,
            what="only endpoints of the new cluster",
        )
        traffic.check()  # requests waited for the new endpoints within their deadline: none failed
