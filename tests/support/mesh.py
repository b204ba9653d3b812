"""A real mesh for tests: etcd, Ray clusters, keepers, agents, on free ports in a folder of its own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from examples.digits.data import load_split
from examples.digits.demo import ask_outside
from serving import Application, Connection, MeshClient, Replicas, Resources, TritonDeployment, load_spec
from serving.local.mesh import UpOptions, down, load_state, up
from serving.local.ray_cluster import RayCluster, find_ray_cluster
from serving.local.state import ProcessRecord
from serving.store import keys
from tests.support.processes import master_pids
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "examples" / "digits" / "app.yaml"


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that runs, and what chaos needs to know of it."""

    mesh_dir: Path

    @property
    def connection(self) -> Connection:
        return Connection.local(self.mesh_dir)

    def process(self, name: str) -> ProcessRecord:
        """The current process of that name: `keeper-0`, `agent-east`, `etcd`, `ray-east`."""
        found = [record for record in load_state(self.mesh_dir).processes if record.name == name]
        assert len(found) == 1, f"processes of the name {name}: {found}"
        return found[0]

    def kill(self, name: str) -> ProcessRecord:
        """`kill -9` of a process of the mesh; what it was before."""
        record = self.process(name)
        os.kill(record.identity.pid, signal.SIGKILL)
        return record

    def wait_replaced(self, before: ProcessRecord, *, timeout_s: float = 60) -> ProcessRecord:
        """Until the supervisor has started a successor."""

        def look() -> ProcessRecord | None:
            now = self.process(before.name)
            return now if now.identity != before.identity and now.identity.alive() else None

        return eventually(look, timeout_s=timeout_s, what=f"a new {before.name}")

    def ray(self, cluster: str) -> RayCluster:
        found = find_ray_cluster(self.mesh_dir / "ray" / cluster)
        assert found is not None
        return found

    def master_pid(self, cluster: str, app: keys.AppKey) -> int:
        """The process of an application's master, found among the cluster's processes by its title."""
        pids = master_pids(self.ray(cluster))
        assert len(pids) == 1, f"masters on {cluster} for {app}: {pids}"
        return pids[0]


def start_mesh(mesh_dir: Path, *, clusters: int) -> RunningMesh:
    up(UpOptions(mesh_dir, clusters=clusters, cpus_per_cluster=4), print)
    return RunningMesh(mesh_dir)


def stop_mesh(mesh: RunningMesh) -> None:
    down(mesh.mesh_dir, print)


def deploy_digits(client: MeshClient) -> None:
    """Deploys the example and returns when both replicas are in discovery."""
    client.deploy(load_spec(DIGITS), wait=True, timeout_s=180)
    eventually(lambda: len(client.endpoints("digits")) == 2, timeout_s=90, what="two endpoints")


def expected_classes() -> list[int]:
    """What the model says of each held-out image outside the mesh."""
    return ask_outside(load_split().held_out_images)


def application(name: str, repository: Path, *, cpus: float = 0.1, start_timeout_s: float = 60) -> Application:
    """One replica of a model repository."""
    deployment = TritonDeployment(
        name="main",
        repository=repository,
        resources=Resources(cpus=cpus),
        replicas=Replicas(1),
        start_timeout=start_timeout_s,
    )
    return Application(name=name, deployments=[deployment])
