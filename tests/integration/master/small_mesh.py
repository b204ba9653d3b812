"""A real etcd, a real Ray cluster and a real agent process; the test plays the keeper and the clients."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray

import serving
from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.local.etcd import EtcdCluster, start_etcd
from serving.local.process import Process
from serving.local.ray_cluster import RayCluster, RayClusterOptions, start_ray_cluster
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from serving.store.types import KeyValue, Op

ROOT = Path(serving.__file__).resolve().parent.parent
LIBRARY = ROOT / "serving" / "_lib" / "libmesh_actor.so"
DIGITS = ROOT / "examples" / "digits" / "models"
CLUSTER = "east"
PATIENCE_S = 120.0


class SmallMesh:
    """Blocking to start and to stop. The asynchronous methods take a client of the test's own loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.etcd: EtcdCluster = start_etcd(directory / "etcd")
        try:
            options = RayClusterOptions(num_cpus=8, resources={"npu": 1.0}, labels={"zone": "a"})
            self.ray: RayCluster = start_ray_cluster(CLUSTER, directory / "ray", options=options)
        except BaseException:
            self.etcd.stop()
            raise
        self.agents: list[Process] = []

    def stop(self) -> None:
        for agent in self.agents:
            agent.stop()
        self.ray.stop()
        self.etcd.stop()

    def start_agent(self, *, mesh: str = "mesh", etcd: EtcdCluster | None = None, **settings: object) -> Process:
        number = len(self.agents)
        config = {
            "mesh": mesh,
            "cluster": CLUSTER,
            "ray_address": self.ray.address,
            "ray_token_file": str(self.ray.token_file),
            "etcd": {"endpoints": list((etcd or self.etcd).endpoints)},
            "labels": {"region": "test"},
            "mesh_dir": str(self.directory),
            "log_level": "debug",
            **settings,
        }
        path = self.directory / f"agent-{number}.json"
        path.write_text(json.dumps(config))
        agent = Process.start(
            f"agent {number}",
            [sys.executable, "-m", "serving.cluster_agent", "--config", path],
            log_file=self.directory / f"agent-{number}.log",
            env={"PYTHONPATH": str(ROOT)},
        )
        self.agents.append(agent)
        return agent

    def client(self) -> EtcdClient:
        return EtcdClient(self.etcd.config())

    def repository(self, change: Callable[[Path], None] | None = None) -> pb.Artifact:
        """The digits model as an artifact, changed by `change` before it is packed."""
        folder = self.directory / f"models-{uuid.uuid4().hex[:8]}"
        shutil.copytree(DIGITS, folder)
        if change is not None:
            change(folder)
        return pack(folder, (self.directory / "artifacts").as_uri())

    def master_log(self, app: AppKey) -> str:
        path = self.directory / "logs" / "masters" / f"{app.namespace}.{app.name}.log"
        return path.read_text() if path.exists() else ""


def spec(app: AppKey, artifact: pb.Artifact, *, replicas: int = 1, cpus: float = 0.1) -> pb.ApplicationSpec:
    deployment = pb.DeploymentSpec(
        name="digits",
        resources=pb.Resources(cpus=cpus),
        replicas=pb.Replicas(min=replicas, max=replicas),
        max_restarts=-1,
        drain_timeout_s=20.0,  # a drain ends when nothing runs; the machine may stand still meanwhile
        triton=pb.TritonDeployment(repository=artifact),
    )
    return pb.ApplicationSpec(namespace=app.namespace, name=app.name, deployments=[deployment])


def proxies(*, name: str = "grpc", replicas: int = 1, **policy: object) -> pb.DeploymentSpec:
    """Proxies, to be appended to a spec's deployments."""
    made = pb.DeploymentSpec(
        name=name,
        resources=pb.Resources(cpus=0.1),
        replicas=pb.Replicas(min=replicas, max=replicas),
        max_restarts=-1,
        drain_timeout_s=20.0,  # a drain ends when nothing runs; the machine may stand still meanwhile
        proxy=pb.ProxyDeployment(),
    )
    if policy:
        made.proxy.policy.update(policy)
    return made


class Keeper:
    """What a keeper writes about one application."""

    def __init__(self, client: EtcdClient, app: AppKey) -> None:
        self.client = client
        self.app = app
        self.uid = uuid.uuid4().hex
        self.generation = 1
        self.revision = 0
        self.created_ms = int(time.time() * 1000)
        self.stored = pb.StoredSpec()

    async def place(self, wanted: pb.ApplicationSpec) -> None:
        """A new revision, on the one cluster there is."""
        self.revision += 1
        self.stored = pb.StoredSpec(spec=wanted, revision=self.revision, uid=self.uid)
        self.stored.created_at.FromMilliseconds(self.created_ms + self.revision)
        decision = pb.Decision(
            uid=self.uid, cluster=CLUSTER, generation=self.generation, revision=self.revision, why="test"
        )
        await self.client.txn(
            [],
            [
                Op.put(keys.spec(self.app), encode(self.stored)),
                Op.put(keys.revision(self.app, self.revision), encode(self.stored)),
                Op.put(keys.decision(self.app), encode(decision)),
                Op.put(keys.placement(CLUSTER, self.app), encode(self.order())),
            ],
        )

    def order(self) -> pb.Placement:
        return pb.Placement(cluster=CLUSTER, generation=self.generation, stored=self.stored)

    async def delete(self) -> None:
        self.stored.deleting = True
        await self.client.txn(
            [],
            [
                Op.put(keys.spec(self.app), encode(self.stored)),
                Op.delete(keys.decision(self.app)),
                Op.delete(keys.placement(CLUSTER, self.app)),
            ],
        )

    async def status(self) -> pb.ApplicationStatus | None:
        kv = await self.client.get(keys.status(self.app))
        return decode(pb.ApplicationStatus, kv.value) if kv is not None else None

    async def endpoints(self, role: str = "direct") -> dict[str, tuple[pb.Endpoint, KeyValue]]:
        snapshot = await self.client.get_prefix(keys.endpoints(self.app, role))
        found = [(decode(pb.Endpoint, kv.value), kv) for kv in snapshot.kvs]
        return {endpoint.id: (endpoint, kv) for endpoint, kv in found}

    async def wait_status(
        self, wanted: Callable[[pb.ApplicationStatus], bool], *, timeout_s: float = PATIENCE_S
    ) -> pb.ApplicationStatus:
        last: pb.ApplicationStatus | None = None

        async def check() -> bool:
            nonlocal last
            last = await self.status()
            return last is not None and wanted(last)

        await until(check, timeout_s=timeout_s, told=lambda: f"last status: {last}")
        assert last is not None
        return last

    async def wait_gone(self, *, timeout_s: float = PATIENCE_S) -> None:
        """Until status and endpoints are deleted, which the master does last."""

        async def check() -> bool:
            return await self.status() is None and not await self.endpoints("")

        await until(check, timeout_s=timeout_s)

    async def wait_ready(self, *, timeout_s: float = PATIENCE_S) -> pb.ApplicationStatus:
        return await self.wait_status(
            lambda status: status.phase == pb.READY and status.revision == self.revision, timeout_s=timeout_s
        )


async def until(
    condition: Callable[[], Awaitable[bool]], *, timeout_s: float = PATIENCE_S, told: Callable[[], str] = str
) -> None:
    deadline = time.monotonic() + timeout_s
    over = False
    while not await condition():
        assert not over, f"it did not come true within {timeout_s:g} s; {told()}"
        await asyncio.sleep(0.02)
        over = time.monotonic() > deadline  # before the look: who stood still since the last one looks once more


async def classify(address: str, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """The classes that one replica answers."""
    async with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        answer = await client.infer("digits", [tensor], client_timeout=60.0)
        probabilities = answer.as_numpy("probabilities")
        assert probabilities is not None
        return probabilities.argmax(axis=1)


async def health_answers(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=None, response_deserializer=None)
        try:
            await check(b"", timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True
