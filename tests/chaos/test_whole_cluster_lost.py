"""A whole Ray cluster dies: its application answers again from the other one.

Last of the folder, as its name has it: nothing starts the cluster again.
"""

from __future__ import annotations

import pytest

from serving import MeshClient
from tests.support.mesh import RunningMesh
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_application_moves(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    first = digits.status("digits")
    with Traffic(mesh.connection, expected, timeout_s=240) as traffic:
        mesh.ray(first.cluster).kill()
        traffic.wait_for(50, timeout_s=240)
        print(f"answers again {traffic.outcome.longest_gap_s():.1f} s after the cluster was killed")
    moved = digits.status("digits")
    assert moved.cluster != first.cluster
    assert moved.generation == first.generation + 1
    eventually(
        lambda: {endpoint.cluster for endpoint in digits.endpoints("digits")} == {moved.cluster},
        timeout_s=60,
        what="only endpoints of the new cluster",
    )
    traffic.check()  # requests waited for the new endpoints within their deadline: none failed
