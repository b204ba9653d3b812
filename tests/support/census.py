"""Every process that a mesh is made of, counted where the kernel knows them and not where the mesh says so."""

from __future__ import annotations

import time
from dataclasses import dataclass

from serving import MeshClient
from serving.local.mesh import load_state
from serving.process_id import ProcessId
from tests.support.mesh import RunningMesh
from tests.support.processes import master_pids, replica_pids
from tests.support.waiting import eventually

_PAUSE_S = 0.1


@dataclass(frozen=True)
class Census:
    """Who runs now. `parts`: supervisor, keepers, agents and Ray clusters by name; etcd is left out.

    `masters` and `replicas` are pids by Ray cluster, of all applications.
    """

    parts: dict[str, ProcessId]
    masters: dict[str, list[int]]
    replicas: dict[str, list[int]]


def take(mesh: RunningMesh) -> Census:
    state = load_state(mesh.mesh_dir)
    parts = {record.name: record.identity for record in state.processes if record.role != "etcd"}
    dead = [name for name, identity in parts.items() if not identity.alive()]
    assert not dead, f"ended: {dead}"
    masters, replicas = {}, {}
    for cluster in state.clusters:
        ray = mesh.ray(cluster.name)
        masters[cluster.name], replicas[cluster.name] = master_pids(ray), replica_pids(ray)
    return Census(parts, masters, replicas)


def assert_one_copy(mesh: RunningMesh, client: MeshClient) -> None:
    """One master and the replicas that discovery names, all on the cluster of the placement, none elsewhere."""
    status = client.status("digits")
    registered = sorted(endpoint.pid for endpoint in client.endpoints("digits"))
    found = take(mesh)
    assert len(registered) == 2, f"registered: {registered}"
    for cluster in found.masters:
        here = cluster == status.cluster
        assert len(found.masters[cluster]) == int(here), f"masters on {cluster}: {found.masters[cluster]}"
        assert sorted(found.replicas[cluster]) == (registered if here else []), (
            f"replicas on {cluster}: {found.replicas[cluster]}, registered: {registered}"
        )


def wait_one_copy(mesh: RunningMesh, client: MeshClient) -> None:
    """Until what was killed is replaced and what was too many has ended."""

    def one_copy() -> bool:
        assert_one_copy(mesh, client)
        return True

    eventually(one_copy, timeout_s=90, what="one master and two replicas on one cluster")


def assert_no_second_copy(mesh: RunningMesh, client: MeshClient) -> None:
    """Nothing more than one copy. Less may be: a machine that stops for seconds takes the leases of what runs."""
    status = client.status("digits")
    found = take(mesh)
    for cluster in found.masters:
        here = cluster == status.cluster
        assert len(found.masters[cluster]) <= int(here), f"masters on {cluster}: {found.masters[cluster]}"
        assert len(found.replicas[cluster]) <= 2 * int(here), f"replicas on {cluster}: {found.replicas[cluster]}"


def assert_one_copy_stays(mesh: RunningMesh, client: MeshClient, *, seconds: float = 5.0) -> None:
    """One copy as soon as what was killed is replaced, and nothing more for so long."""
    wait_one_copy(mesh, client)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert_no_second_copy(mesh, client)
        time.sleep(_PAUSE_S)
    wait_one_copy(mesh, client)


def two_replicas(client: MeshClient) -> dict[str, int]:
    """Pids by id of the replicas in discovery, once both are there."""

    def look() -> dict[str, int] | None:
        found = {endpoint.id: endpoint.pid for endpoint in client.endpoints("digits")}
        return found if len(found) == 2 else None

    found = eventually(look, timeout_s=90, what="two replicas in discovery")
    assert found is not None
    return found
