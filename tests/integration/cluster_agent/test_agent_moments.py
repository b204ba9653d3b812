"""Agents, masters and health checks, ended at every moment. What they start is a fake: `RayCalls` and `Launcher`."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from serving._proto import records_pb2 as pb
from serving.cluster_agent.agent import Agent
from serving.cluster_agent.claim import Claim
from serving.cluster_agent.config import AgentConfig
from serving.cluster_agent.model import ClusterFacts
from serving.local.etcd import EtcdCluster
from serving.local.ports import free_ports
from serving.master.application import ApplicationMaster
from serving.master.config import MasterConfig
from serving.master.health import HealthCheck
from serving.master.model import ActorRow, Health
from serving.master.replica_config import Launch
from serving.store import AppKey, EtcdClient, keys
from serving.store.records import encode
from tests.support.moments import Moment, at_each, cut, ended, moments

_numbers = itertools.count(1)
BRIEF = (0.01, 0.05)
NOT_OURS = "203.0.113.1"  # no metrics are served there: to end them takes half a second
FEW = (Moment(0), Moment(3), Moment(20), Moment(60), Moment(seconds=0.05))


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(etcd.config())
    yield made
    await made.close()


def order(app: AppKey, cluster: str) -> pb.Placement:
    spec = pb.ApplicationSpec(
        namespace=app.namespace,
        name=app.name,
        deployments=[pb.DeploymentSpec(name="net", replicas=pb.Replicas(min=1, max=1), triton=pb.TritonDeployment())],
    )
    stored = pb.StoredSpec(spec=spec, revision=1, uid="u1")
    return pb.Placement(stored=stored, cluster=cluster, generation=1)


class Ray:
    """Answers at once; masters that are started are never seen."""

    async def connect(self) -> None: ...

    async def facts(self) -> ClusterFacts:
        await asyncio.sleep(0.001)
        return ClusterFacts((), ())

    async def start_master(self, order: pb.Placement) -> None:  # noqa: ARG002
        await asyncio.sleep(0.001)

    async def work_order(self, name: object) -> pb.Placement:
        raise NotImplementedError

    async def stop(self, name: object) -> bool:
        raise NotImplementedError

    async def ping(self, name: object) -> None: ...

    async def kill(self, name: object, *, restart: bool) -> None: ...

    async def read_claim(self) -> Claim | None:
        return None

    async def write_claim(self, claim: Claim) -> None: ...


class Replicas:
    """A launcher whose replicas never come to life."""

    async def actors(self, *, dead: bool) -> tuple[ActorRow, ...]:  # noqa: ARG002
        await asyncio.sleep(0.001)
        return ()

    async def create(self, launch: Launch) -> None:  # noqa: ARG002
        await asyncio.sleep(0.001)

    async def remember(self, state: bytes) -> None: ...

    async def recall(self) -> bytes | None:
        await asyncio.sleep(0.001)
        return None

    async def forget(self) -> None: ...


def agent_of(etcd: EtcdCluster, cluster: str, listen_host: str = NOT_OURS) -> Agent:
    config = AgentConfig(
        cluster=cluster,
        ray_address="127.0.0.1:1",
        etcd=etcd.config(),
        listen_host=listen_host,
        refresh_s=0.002,  # so that the record is written all the time
    )
    return Agent(config, "me", Ray())  # type: ignore[arg-type]


async def test_an_agent_can_be_ended_at_any_moment_and_takes_its_record_back(
    client: EtcdClient, etcd: EtcdCluster
) -> None:
    app = AppKey("default", "shop")
    await client.put(keys.placement("east", app), encode(order(app, "east")))

    async def scenario(moment: Moment) -> None:
        agent = agent_of(etcd, "east")
        run = asyncio.create_task(agent.run())
        await moment.come(run)
        await ended(asyncio.create_task(agent.withdraw()), moment)
        run.cancel()
        await ended(run, moment)
        assert run.cancelled() or run.exception() is None
        assert await client.get(keys.cluster("east")) is None

    await at_each(scenario, moments(seconds=BRIEF))


@pytest.mark.parametrize(("host", "when"), [(NOT_OURS, None), ("127.0.0.1", FEW)])
async def test_an_agent_can_be_cancelled_at_any_moment(
    client: EtcdClient, etcd: EtcdCluster, host: str, when: tuple[Moment, ...] | None
) -> None:
    async def scenario(moment: Moment) -> None:
        agent = agent_of(etcd, "west", host)
        await cut(agent.run(), moment)
        await agent.withdraw()
        assert await client.get(keys.cluster("west")) is None

    await at_each(scenario, when or moments(seconds=BRIEF))


@pytest.mark.parametrize(("host", "when"), [(NOT_OURS, None), ("127.0.0.1", FEW)])
async def test_a_master_can_be_cancelled_at_any_moment(
    etcd: EtcdCluster, host: str, when: tuple[Moment, ...] | None
) -> None:
    config = MasterConfig(cluster="east", etcd=etcd.config(), python="python", cache_dir="/nowhere", listen_host=host)

    async def scenario(moment: Moment) -> None:
        app = AppKey("default", f"app{next(_numbers)}")
        master = ApplicationMaster(config, order(app, "east"), Replicas())  # type: ignore[arg-type]
        task = await cut(master.run(), moment)
        assert task.cancelled()

    await at_each(scenario, when or moments(seconds=BRIEF))


class Healthy(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """`grpc.health.v1` without `Watch` or with one that never changes."""

    def __init__(self, *, watch: bool) -> None:
        self._watch = watch

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        if details.method.endswith("/Check"):
            return grpc.unary_unary_rpc_method_handler(self._check)
        return grpc.unary_stream_rpc_method_handler(self._stay) if self._watch else None

    async def _check(self, _request: bytes, _context: object) -> bytes:
        return b"\x08\x01"

    async def _stay(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"\x08\x01"
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["watch", "check", "silent", "closed"])
async def test_a_health_check_can_be_cancelled_at_any_moment(kind: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Healthy(watch=kind == "watch"),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        others = {"silent": silent.getsockname()[1], "closed": free_ports(1)[0]}

        async def scenario(moment: Moment) -> None:
            said: list[Health] = []
            check = HealthCheck(f"127.0.0.1:{others.get(kind, port)}", 1, said.append)
            task = await cut(check.run(), moment)
            assert task.cancelled()

        if kind != "silent":
            await at_each(scenario)
        else:  # gRPC keeps a connection whose other side says nothing for 20 s, also where its channel is closed
            for moment in moments():
                await scenario(moment)
    await server.stop(None)
