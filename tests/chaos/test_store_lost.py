"""etcd away, hung, empty, or older than it was, while requests flow."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import MeshClient
from serving._proto import records_pb2 as pb
from serving.errors import MeshError
from serving.local.mesh import load_state
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode
from tests.support.census import take, two_replicas
from tests.support.mesh import RunningMesh, deploy_digits
from tests.support.stored import stored_keys, stored_leases
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
APP = AppKey("default", "digits")
LONGEST_LEASE_S = 10  # of agents; replicas and keepers have shorter ones


@contextmanager
def etcd_down(mesh: RunningMesh) -> Iterator[Path]:
    """etcd is dead inside, and started again by the supervisor afterwards. Yields its data folder."""
    supervisor = mesh.process("supervisor").identity
    etcd = mesh.process("etcd")
    os.kill(supervisor.pid, signal.SIGSTOP)  # else it would start etcd again at once
    try:
        os.kill(etcd.identity.pid, signal.SIGKILL)
        eventually(lambda: not etcd.identity.alive(), timeout_s=60, what="the end of etcd")
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


def registered(mesh: RunningMesh, pids: dict[str, int]) -> bool:
    """The leased records of replicas, agents and a keeper stand in etcd itself; raises `AssertionError` else."""
    etcd = mesh.connection.etcd
    endpoints = [decode(pb.Endpoint, value) for value in stored_keys(etcd, keys.endpoints(APP)).values()]
    assert {endpoint.id: endpoint.pid for endpoint in endpoints} == pids
    clusters = [cluster.name for cluster in load_state(mesh.mesh_dir).clusters]
    assert set(stored_keys(etcd, keys.CLUSTERS)) == {keys.cluster(name) for name in clusters}
    assert stored_keys(etcd, keys.KEEPER_ELECTION), "no keeper stands for election"
    return True


def renewed(mesh: RunningMesh, traffic: Traffic) -> bool:
    """All leases are the same, and still there, after longer than the longest lives without its holder."""
    etcd = mesh.connection.etcd
    prefixes = (keys.endpoints(APP), keys.CLUSTERS, keys.KEEPER_ELECTION)
    before = [stored_leases(etcd, prefix) for prefix in prefixes]
    hold(traffic, LONGEST_LEASE_S + 5)
    after = [stored_leases(etcd, prefix) for prefix in prefixes]
    assert after == before
    assert all(leases and all(leases.values()) for leases in after), after
    return True


def test_etcd_stopped_for_a_minute(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = two_replicas(digits)
    census = take(mesh)
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh):
            hold(traffic, 60)
        # Who could not renew for longer than its lease lives takes a new one, so those from before prove nothing.
        eventually(lambda: registered(mesh, before), timeout_s=60, what="all leased records")
        # A machine that is too busy for renewals may lose a lease for a moment; one that always does is found.
        eventually(lambda: renewed(mesh, traffic), timeout_s=180, what="leases that are renewed")
        eventually(lambda: registered(mesh, before), timeout_s=60, what="all leased records, still")
        wait_healthy(digits, before, 60)
        eventually(
            lambda: {view.record.name for view in digits.clusters()} == set(census.masters),
            timeout_s=60,
            what="all clusters in the keeper's view",
        )
        assert take(mesh) == census, "no process ended or started"
    traffic.check()


def test_etcd_hangs(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = two_replicas(digits)
    with Traffic(mesh.connection, expected) as traffic:
        pid = mesh.process("etcd").identity.pid
        os.kill(pid, signal.SIGSTOP)
        hold(traffic, 15)
        os.kill(pid, signal.SIGCONT)
        wait_healthy(digits, before, 60)
        traffic.wait_for(50)
    traffic.check()


@dataclass(frozen=True)
class Facts:
    """What the store must know again: specs as they were written, and where and in what state the application is."""

    spec: pb.StoredSpec
    revisions: dict[str, pb.StoredSpec]
    placements: dict[str, pb.Placement]
    decided: tuple[str, str, int, int]
    status: tuple[str, str, int, int, int, int]


def facts(mesh: RunningMesh) -> Facts | None:
    """None while a record is missing or etcd does not answer."""
    try:
        app, placed = (
            stored_keys(mesh.connection.etcd, keys.app(APP)),
            stored_keys(mesh.connection.etcd, keys.PLACEMENTS),
        )
    except MeshError:
        return None
    if not {keys.spec(APP), keys.decision(APP), keys.status(APP)} <= app.keys():
        return None
    decision = decode(pb.Decision, app[keys.decision(APP)])
    status = decode(pb.ApplicationStatus, app[keys.status(APP)])
    return Facts(
        spec=decode(pb.StoredSpec, app[keys.spec(APP)]),
        revisions={k: decode(pb.StoredSpec, v) for k, v in app.items() if k.startswith(keys.revisions(APP))},
        placements={k: decode(pb.Placement, v) for k, v in placed.items() if keys.parse_placement(k)[1] == APP},
        decided=(decision.uid, decision.cluster, decision.generation, decision.revision),
        status=(
            status.uid,
            status.cluster,
            status.generation,
            status.revision,
            status.serving_revision,
            status.phase,
        ),
    )


def unchanged(known: Facts, now: Facts | None) -> bool:
    """Raises `AssertionError` with what differs."""
    assert now is not None, "not all records are there"
    for name, value in vars(known).items():
        assert getattr(now, name) == value, f"{name} was {value}"
    return True


def settled(mesh: RunningMesh) -> Facts:
    """The facts of an application that is ready."""

    def look() -> Facts | None:
        now = facts(mesh)
        return now if now is not None and now.status[-1] == pb.READY else None

    return eventually(look, timeout_s=90, what="the records of an application that is ready")


def keeper_log(mesh: RunningMesh) -> str:
    return Path(mesh.process("keeper-0").log_file).read_text()


def told(mesh: RunningMesh, client: MeshClient, logged: int, *kinds: str) -> bool:
    """The status names where the records come from; the keeper's log, from `logged` on, names what happened.

    Raises `AssertionError` else.
    """
    message = client.status("digits").message
    assert "restored from the memory of keeper keeper-0, because the store had lost it" in message
    assert any(f"the store came back {kind}" in keeper_log(mesh)[logged:] for kind in kinds)
    assert "nothing is stopped" in keeper_log(mesh)[logged:]
    return True


def test_etcd_comes_back_empty(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    before = two_replicas(digits)
    known, census, logged = settled(mesh), take(mesh), len(keeper_log(mesh))
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh) as data:
            shutil.rmtree(data)
        wait_healthy(digits, before, 60)
        eventually(lambda: unchanged(known, facts(mesh)), timeout_s=90, what="the records as they were")
        hold(traffic, 40)  # longer than every grace time: nothing may be taken down late
        eventually(lambda: unchanged(known, facts(mesh)), timeout_s=60, what="the records as they were, still")
        wait_healthy(digits, before, 60)
        assert take(mesh) == census, "no process ended or started"
        # Where an agent or a master wrote back before the keeper looked, the store is not empty any more.
        eventually(lambda: told(mesh, digits, logged, "empty", "older"), timeout_s=60, what="that it was restored")
    traffic.check()


def test_etcd_comes_back_older(mesh: RunningMesh, digits: MeshClient, expected: list[int], tmp_path: Path) -> None:
    older = settled(mesh)
    with etcd_down(mesh) as data:
        shutil.copytree(data, tmp_path / "older")
    wait_healthy(digits, two_replicas(digits), 60)
    eventually(lambda: _delete_and_deploy(digits), timeout_s=120, what="the application deployed anew")
    before = two_replicas(digits)
    known, census, logged = settled(mesh), take(mesh), len(keeper_log(mesh))
    assert known.spec.uid != older.spec.uid
    with Traffic(mesh.connection, expected) as traffic:
        with etcd_down(mesh) as data:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "older", data)
        wait_healthy(digits, before, 60)
        eventually(lambda: unchanged(known, facts(mesh)), timeout_s=90, what="the records as they were")
        hold(traffic, 40)
        eventually(lambda: unchanged(known, facts(mesh)), timeout_s=60, what="the records as they were, still")
        wait_healthy(digits, before, 60)
        assert take(mesh) == census, "no process ended or started"
        eventually(lambda: told(mesh, digits, logged, "older"), timeout_s=60, what="that it was restored")
    traffic.check()


def _delete_and_deploy(client: MeshClient) -> bool:
    client.delete("digits", wait=True)
    deploy_digits(client)
    return True
