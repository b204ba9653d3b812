"""Real keepers as processes on a real etcd, with cluster records and statuses written by the test."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from serving._proto import keeper_pb2 as api
from serving._proto import keeper_pb2_grpc as rpc
from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.local.etcd import EtcdCluster
from serving.local.process import Process
from serving.store import EtcdClient, Lease, keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode

T = TypeVar("T")
WAIT_S = 90.0
SHOP = AppKey("default", "shop")


async def eventually(look: Callable[[], Awaitable[T]], *, what: str = "", timeout_s: float = WAIT_S) -> T:
    """The first true answer of `look`; an assertion that raises counts as false."""
    deadline = time.monotonic() + timeout_s
    while True:
        over = time.monotonic() > deadline  # before the look: who stood still since the last one looks once more
        problem: object = None
        try:
            answer = await look()
            if answer:
                return answer
        except (AssertionError, pytest.fail.Exception, grpc.aio.AioRpcError) as error:
            problem = error
        if over:
            raise AssertionError(f"not within {timeout_s} s: {what or look.__name__} ({problem})")
        await asyncio.sleep(0.05)


def spec(name: str = "shop", *, cpus: float = 1.0, replicas: int = 1, clusters: tuple[str, ...] = ()) -> Any:
    return pb.ApplicationSpec(
        namespace="default",
        name=name,
        placement=pb.PlacementPolicy(clusters=clusters),
        deployments=[
            pb.DeploymentSpec(
                name="digits",
                resources=pb.Resources(cpus=cpus),
                replicas=pb.Replicas(min=replicas, max=replicas),
                triton=pb.TritonDeployment(
                    repository=pb.Artifact(uri="file:///models.tar", digest="sha256:" + "0" * 64, size_bytes=1)
                ),
            )
        ],
    )


async def page_of(address: str, path: str) -> str:
    """The body of what a keeper's page answers."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer.partition("\r\n\r\n")[2]


class KeeperProcess:
    """One `python -m keeper`."""

    def __init__(self, folder: Path, name: str, etcd: EtcdConfig, **settings: object) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.out = folder / f"{name}.out"
        config = {
            "id": name,
            "etcd": {"endpoints": list(etcd.endpoints)},
            "metrics_listen": "127.0.0.1:0",
            "log_file": str(self.log),
            "election_ttl_s": 3,
            "cluster_grace_s": 0.5,
            "reconnect_grace_s": 1.0,
            "store_loss_grace_s": 3.0,
            "adopt_grace_s": 3.0,
            **settings,
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "keeper", "--config", str(path)]
        self.process = Process.start(name, command, log_file=self.out, die_with_parent=True)
        self.address = self.metrics = ""
        self.channel: grpc.aio.Channel | None = None

    async def ready(self) -> KeeperProcess:
        async def said() -> bool:
            assert self.process.running(), self.out.read_text()
            line = self.out.read_text().partition("\n")
            if not line[1]:
                return False
            found = json.loads(line[0])
            self.address, self.metrics = found["address"], found["metrics"]
            return True

        await eventually(said, what=f"{self.name} listens")
        self.channel = grpc.aio.insecure_channel(self.address)
        return self

    @property
    def stub(self) -> Any:
        return rpc.KeeperStub(self.channel)  # type: ignore[no-untyped-call]

    async def page(self, path: str) -> str:
        return await page_of(self.metrics, path)

    async def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(await self.page("/events"))
        return found

    async def leads(self) -> bool:
        return "mesh_keeper_leads 1.0" in await self.page("/metrics")

    async def end(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        await asyncio.to_thread(self.process.stop)


@dataclass
class FakeCluster:
    """A cluster record as an agent writes it: leased, and kept until `die`."""

    client: EtcdClient
    etcd: EtcdConfig
    name: str
    record: pb.ClusterRecord
    lease: Lease | None = None

    async def live(self) -> None:
        self.lease = Lease(self.etcd, ttl_s=60)  # a cluster dies when the test says so, not when the machine stops
        await self.lease.start()
        await self.write()

    async def write(self) -> None:
        assert self.lease is not None
        await self.client.put(keys.cluster(self.name), encode(self.record), lease=self.lease.id)

    async def die(self) -> None:
        if self.lease is not None:
            await self.lease.revoke()
            self.lease = None


@dataclass
class Bench:
    """What a test works with. Everything it started is ended with it."""

    folder: Path
    etcd: EtcdConfig
    client: EtcdClient
    keepers: list[KeeperProcess] = field(default_factory=list)
    clusters: dict[str, FakeCluster] = field(default_factory=dict)

    async def keeper(self, name: str = "k0", **settings: object) -> KeeperProcess:
        keeper = KeeperProcess(self.folder, name, self.etcd, **settings)
        self.keepers.append(keeper)
        return await keeper.ready()

    async def cluster(self, name: str, cpus: float = 8.0, masters: tuple[str, ...] = ()) -> FakeCluster:
        total = pb.Resources(cpus=cpus)
        record = pb.ClusterRecord(name=name, agent_id="test", total=total, available=total, masters=masters)
        record.nodes.add(id=f"{name}-0", total=total, available=total)
        cluster = FakeCluster(self.client, self.etcd, name, record)
        self.clusters[name] = cluster
        await cluster.live()
        return cluster

    async def leader(self) -> KeeperProcess:
        async def look() -> KeeperProcess | None:
            for keeper in self.keepers:
                if keeper.process.running() and await keeper.leads():
                    return keeper
            return None

        found = await eventually(look, what="a keeper leads")
        assert found is not None
        return found

    async def placements(self, key: AppKey = SHOP) -> dict[str, pb.Placement]:
        snapshot = await self.client.get_prefix(keys.PLACEMENTS)
        found = {}
        for kv in snapshot.kvs:
            place = keys.parse_placement(kv.key)
            assert place is not None
            if place[1] == key:
                found[place[0]] = decode(pb.Placement, kv.value)
        return found

    async def placed(self, on: str, *, generation: int, revision: int = 1, key: AppKey = SHOP) -> pb.Placement:
        """Waits until the application has exactly this work order."""

        async def look() -> bool:
            found = await self.placements(key)
            assert set(found) == {on}, found
            order = found[on]
            assert (order.generation, order.stored.revision) == (generation, revision), order
            return True

        await eventually(look, what=f"{key} on {on} as generation {generation}, revision {revision}")
        return (await self.placements(key))[on]

    async def decision(self, key: AppKey = SHOP) -> pb.Decision | None:
        kv = await self.client.get(keys.decision(key))
        return decode(pb.Decision, kv.value) if kv else None

    async def end(self) -> None:
        for cluster in self.clusters.values():
            await cluster.die()
        for keeper in self.keepers:
            await keeper.end()
        await self.client.close()


def name_of(key: AppKey = SHOP) -> api.ApplicationName:
    return api.ApplicationName(namespace=key.namespace, name=key.name)


async def wipe(etcd: EtcdCluster) -> None:
    def work() -> None:
        etcd.kill()
        etcd.wipe()
        etcd.start()

    await asyncio.to_thread(work)
