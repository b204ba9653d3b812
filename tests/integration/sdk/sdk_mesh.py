"""A mesh without Ray: real etcd and real keepers; the test plays agent and master by writing their records."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.sdk import Application, AsyncMeshClient, Connection, TritonDeployment
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from serving.store.types import Changes, Resync

Judge = Callable[[pb.Placement], pb.ApplicationStatus]


class KeeperProcess:
    """One `python -m keeper` in a process group of its own."""

    def __init__(self, folder: Path, name: str, etcd: EtcdConfig) -> None:
        config = {
            "id": name,
            "etcd": {"endpoints": list(etcd.endpoints)},
            "log_file": str(folder / f"{name}.log"),
            "election_ttl_s": 3,
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        self.process = subprocess.Popen([sys.executable, "-m", "keeper", "--config", str(path)], start_new_session=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Cluster:
    """Plays the agent and the masters of one Ray cluster: writes its record, and a status for each placement.

    `judge` makes the status of a placement; a placement that is deleted has its status deleted.
    """

    def __init__(self, store: EtcdClient, name: str = "east") -> None:
        self.name = name
        self.judge: Judge = ready
        self._store = store
        self._seen: dict[str, AppKey] = {}

    async def run(self) -> None:
        plenty = pb.Resources(cpus=16, memory_bytes=64 << 30)
        record = pb.ClusterRecord(name=self.name, agent_id="agent", total=plenty, available=plenty)
        record.nodes.add(id="node", address="127.0.0.1", total=plenty, available=plenty)
        await self._store.put(keys.cluster(self.name), encode(record))
        async for event in self._store.watch(keys.placements(self.name)):
            if isinstance(event, Resync):
                for entry in event.snapshot.kvs:
                    await self._placed(entry.key, entry.value)
            elif isinstance(event, Changes):
                for entry in event.puts:
                    await self._placed(entry.key, entry.value)
                for key in event.deletes:
                    await self._store.delete(keys.status(self._seen[key]))

    async def _placed(self, key: str, value: bytes) -> None:
        placement = decode(pb.Placement, value)
        spec = placement.stored.spec
        app = self._seen[key] = AppKey(spec.namespace, spec.name)
        await self._store.put(keys.status(app), encode(self.judge(placement)))


def status_of(placement: pb.Placement, phase: pb.Phase, serving: int, message: str = "") -> pb.ApplicationStatus:
    stored = placement.stored
    return pb.ApplicationStatus(
        namespace=stored.spec.namespace,
        name=stored.spec.name,
        uid=stored.uid,
        cluster=placement.cluster,
        generation=placement.generation,
        revision=stored.revision,
        serving_revision=serving,
        phase=phase,
        message=message,
    )


def ready(placement: pb.Placement) -> pb.ApplicationStatus:
    made = status_of(placement, pb.READY, placement.stored.revision)
    for deployment in placement.stored.spec.deployments:
        made.deployments.add(name=deployment.name, wanted=deployment.replicas.min, ready=deployment.replicas.min)
    return made


def failed(placement: pb.Placement) -> pb.ApplicationStatus:
    made = status_of(placement, pb.FAILED, 0, "no replica of digits can start")
    deployment = made.deployments.add(name="digits", wanted=1, ready=0)
    deployment.replicas.add(
        id="digits-r1-0",
        state=pb.REPLICA_FAILED,
        revision=placement.stored.revision,
        reason="model digits: input 0 has 3 dims, config says 4",
    )
    return made


def starting(placement: pb.Placement) -> pb.ApplicationStatus:
    made = status_of(placement, pb.STARTING, 0)
    deployment = made.deployments.add(name="digits", wanted=2, ready=1)
    deployment.replicas.add(id="digits-r1-1", state=pb.REPLICA_STARTING, revision=placement.stored.revision)
    return made


def application(folder: Path, name: str = "digits") -> Application:
    """An application whose models are a real folder."""
    model = folder / "models" / "digits" / "1"
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.onnx").write_bytes(b"not looked at here")
    return Application(name, [TritonDeployment("digits", folder / "models")])


class Mesh:
    """etcd's configuration, a connection to the mesh, and its keepers."""

    def __init__(self, folder: Path, etcd: EtcdConfig) -> None:
        self.folder = folder
        self.etcd = etcd
        self.connection = Connection(etcd=etcd, artifacts=(folder / "artifacts").as_uri())
        self.store = EtcdClient(etcd)
        self.keepers: list[KeeperProcess] = []
        self.cluster = Cluster(self.store)
        self._task: asyncio.Task[None] | None = None

    def start_keeper(self, name: str) -> KeeperProcess:
        self.keepers.append(KeeperProcess(self.folder, name, self.etcd))
        return self.keepers[-1]

    def start_cluster(self) -> None:
        self._task = asyncio.create_task(self.cluster.run())

    async def cluster_seen(self, client: AsyncMeshClient) -> None:
        """Waits until the keeper knows the cluster."""
        deadline = time.monotonic() + 60
        while not await client.clusters():
            assert time.monotonic() < deadline, "the keeper never saw the cluster"
            await asyncio.sleep(0.05)

    async def register(self, *endpoints: pb.Endpoint) -> None:
        for endpoint in endpoints:
            app = AppKey(endpoint.namespace, endpoint.application)
            await self.store.put(keys.endpoint(app, endpoint.role, endpoint.deployment, endpoint.id), encode(endpoint))

    async def end(self) -> None:
        for keeper in self.keepers:
            keeper.kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.store.close()
