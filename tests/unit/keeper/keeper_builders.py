"""Short ways to make records for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeper.constraints import Neighbour
from keeper.picture import AppState, Versioned
from keeper.placement import ClusterState, Liveness
from keeper.world import World
from serving._proto import records_pb2 as pb
from serving.stamps import stamp
from serving.store.keys import AppKey

KEY = AppKey("default", "shop")


def spec(
    name: str = "shop",
    *,
    cpus: float = 1,
    gpus: float = 0,
    replicas: int = 1,
    accelerator: str = "",
    memory: int = 0,
    custom: Mapping[str, float] | None = None,
    namespace: str = "default",
    policy: pb.PlacementPolicy | None = None,
) -> pb.ApplicationSpec:
    resources = pb.Resources(
        cpus=cpus, gpus=gpus, accelerator_type=accelerator, memory_bytes=memory, custom=custom or {}
    )
    deployment = pb.DeploymentSpec(
        name="digits",
        resources=resources,
        replicas=pb.Replicas(min=replicas, max=replicas),
        triton=pb.TritonDeployment(
            repository=pb.Artifact(uri="file:///models.tar", digest="sha256:" + "0" * 64, size_bytes=1)
        ),
    )
    return pb.ApplicationSpec(
        namespace=namespace, name=name, deployments=[deployment], placement=policy or pb.PlacementPolicy()
    )


def resources(cpus: float, gpus: float = 0, memory: int = 0, accelerator: str = "", **custom: float) -> pb.Resources:
    return pb.Resources(cpus=cpus, gpus=gpus, memory_bytes=memory, accelerator_type=accelerator, custom=custom)


def cluster(
    name: str,
    nodes: Sequence[pb.Resources],
    *,
    labels: Mapping[str, str] | None = None,
    available: Sequence[pb.Resources] | None = None,
    mesh_used: pb.Resources | None = None,
    masters: Sequence[str] = (),
) -> pb.ClusterRecord:
    record = pb.ClusterRecord(name=name, labels=labels or {}, masters=masters, mesh_used=mesh_used or pb.Resources())
    for index, total in enumerate(nodes):
        free = available[index] if available else total
        record.nodes.add(id=f"{name}-{index}", total=total, available=free)
    return record


def alive(record: pb.ClusterRecord) -> ClusterState:
    return ClusterState(record, Liveness.ALIVE)


def simple(name: str, *cpus: float, labels: Mapping[str, str] | None = None) -> ClusterState:
    return alive(cluster(name, [resources(count) for count in cpus], labels=labels))


def neighbour(on: str, placed: pb.ApplicationSpec) -> Neighbour:
    return Neighbour(AppKey(placed.namespace, placed.name), on, placed)


def stored(
    of: pb.ApplicationSpec | None = None,
    *,
    revision: int = 1,
    uid: str = "uid-a",
    at: float | None = None,
    deleting: bool = False,
) -> pb.StoredSpec:
    return pb.StoredSpec(
        spec=of or spec(),
        revision=revision,
        uid=uid,
        created_at=stamp(1000.0 + revision if at is None else at),
        deleting=deleting,
    )


def order(on: str, of: pb.StoredSpec, generation: int = 1) -> pb.Placement:
    return pb.Placement(cluster=on, generation=generation, stored=of)


def decision(on: str, of: pb.StoredSpec, generation: int = 1, *, at: float = 1000.0) -> pb.Decision:
    return pb.Decision(
        uid=of.uid, cluster=on, generation=generation, revision=of.revision, decided_at=stamp(at), why="first placement"
    )


def app(
    of: pb.StoredSpec | None = None,
    *,
    decided: pb.Decision | None = None,
    orders: Sequence[pb.Placement] = (),
    status: pb.ApplicationStatus | None = None,
    revisions: Sequence[pb.StoredSpec] = (),
    tombstones: Sequence[pb.Placement] = (),
) -> AppState:
    state = AppState(KEY)
    state.spec = Versioned(of, 10) if of else None
    state.decision = Versioned(decided, 11) if decided else None
    state.status = Versioned(status, 12) if status else None
    state.placements = {item.cluster: Versioned(item, 13) for item in orders}
    state.revisions = {item.revision: Versioned(item, 14) for item in revisions}
    state.tombstones = {item.stored.uid: Versioned(item, 15) for item in tombstones}
    return state


def world(*clusters: ClusterState, placed: Sequence[Neighbour] = (), now: float = 5000.0, **more: object) -> World:
    return World(now_s=now, clusters=clusters, placed=tuple(placed), specs=(), **more)  # type: ignore[arg-type]
