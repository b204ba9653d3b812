"""etcd away, hung, empty, or older than it was, while requests flow."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import MeshClient
from serving.errors import MeshError
from tests.support.mesh import RunningMesh
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@contextmanager
def etcd_down(mesh: RunningMesh) -> Iterator[Path]:
    """etcd is dead inside, and started again by the supervisor afterwards. Yields its data folder."""
    supervisor = mesh.process("supervisor").identity
    etcd = mesh.process("etcd")
    os.kill(supervisor.pid, signal.SIGSTOP)  # else it would start etcd again at once
    try:
        os.kill(etcd.identity.pid, signal.SIGKILL)
        eventually(lambda: not etcd.identity.alive(), timeout_s=10, what="the end of etcd")
        yield mesh.mesh_dir / "etcd" / "data"
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    mesh.wait_replaced(etcd)


def replica_pids(client: MeshClient) -> dict[str, int]:
    return {endpoint.id: endpoint.pid for endpoint in client.endpoints("digits")}


def wait_healthy(client: MeshClient, before: dict[str, int], timeout_s: float) -> float:
    """Until discovery has the same processes again; the seconds that it took."""
    started = time.monotonic()

    def look() -> bool:
        try:
            return replica_pids(client) == before
        except MeshError:
            return False

    eventually(look, timeout_s=timeout_s, what="the same replicas registered again")
    return time.monotonic() - started


def hold(traffic: Traffic, seconds: float) -> None:
    """Traffic goes on for so long, and keeps being answered."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        traffic.wait_for(5)


def test_etcd_stopped_for_a_minute(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = replica_pids(digits)
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh):
            hold(traffic, 60)
        wait_healthy(digits, before, 10)
        traffic.wait_for(50)
        eventually(lambda: len(digits.clusters()) == 2, timeout_s=30, what="both agents registered again")
        assert replica_pids(digits) == before
    traffic.check()


def test_etcd_hangs(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = replica_pids(digits)
    with Traffic(mesh.connection, expected) as traffic:
        pid = mesh.process("etcd").identity.pid
        os.kill(pid, signal.SIGSTOP)
        hold(traffic, 15)
        os.kill(pid, signal.SIGCONT)
        wait_healthy(digits, before, 15)
        traffic.wait_for(50)
    traffic.check()


def test_etcd_comes_back_empty(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = replica_pids(digits)
    revision = digits.status("digits").revision
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh) as data:
            shutil.rmtree(data)
        wait_healthy(digits, before, 30)
        eventually(lambda: _revision(digits) == revision, timeout_s=90, what="the application known again")
        hold(traffic, 40)  # longer than every grace time: nothing may be taken down late
        assert replica_pids(digits) == before
    traffic.check()


def test_etcd_comes_back_older(mesh: RunningMesh, digits: MeshClient, expected: list[int], tmp_path: Path) -> None:
    with etcd_down(mesh) as data:
        shutil.copytree(data, tmp_path / "older")
    wait_healthy(digits, replica_pids(digits), 30)
    eventually(lambda: _delete_and_deploy(digits), timeout_s=120, what="the application deployed anew")
    before = replica_pids(digits)
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh) as data:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "older", data)
        wait_healthy(digits, before, 60)
        hold(traffic, 40)
        assert replica_pids(digits) == before
    traffic.check()


def _revision(client: MeshClient) -> int:
    try:
        return int(client.status("digits").revision)
    except MeshError:
        return 0


def _delete_and_deploy(client: MeshClient) -> bool:
    from tests.support.mesh import deploy_digits

    client.delete("digits", wait=True)
    deploy_digits(client)
    return True
