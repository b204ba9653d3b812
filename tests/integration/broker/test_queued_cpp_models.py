"""Requests that wait, answered by replicas in C++: an embedded Triton that asks real brokers for work."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import AsyncMeshClient, Connection
from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig, TlsConfig
from serving.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from serving.local.etcd import EtcdCluster
from serving.sdk import Ticket
from tests.integration.replica.replica_harness import ReplicaProcess, prepare_command, replica_config, write_model
from tests.support.broker_serving import WORKER, BrokerProcess, broker_config
from tests.support.certificates import Authority
from tests.support.waiting import aeventually, eventually_async

pytestmark = pytest.mark.timeout(900)
RESULT_S = 120.0
PARTS = 4


class World:
    """An application of its own: its brokers and its replicas."""

    def __init__(self, folder: Path, etcd: EtcdConfig, application: str, processes: ExitStack) -> None:
        self.folder = folder
        self.etcd = etcd
        self.application = application
        self.gate = folder / "gate"
        self.repository = folder / "models"
        self.shared_replica: ReplicaProcess | None = None
        self._processes = processes
        self._write_models()

    def _write_models(self) -> None:
        """`echo` answers at once, `slow` in 50 ms, `gated` when there is the file `gate`, `parts` several times."""
        gate = f'parameters {{ key: "execute_gate" value {{ string_value: "{self.gate}" }} }}\n'
        write_model(self.repository, "echo")
        write_model(self.repository, "slow", delay_ms=50)
        write_model(self.repository, "gated", extra=gate)
        write_model(
            self.repository,
            "parts",
            extra="model_transaction_policy { decoupled: true }\n"
            f'parameters {{ key: "responses" value {{ string_value: "{PARTS}" }} }}\n'
            'parameters { key: "response_interval_us" value { string_value: "20000" } }\n',
        )
        error = 'parameters { key: "execute_error" value { string_value: "a bad day" } }\n'
        write_model(self.repository, "wrong", extra=error)

    def broker(self, name: str = "queue-r1-0", tls: TlsConfig | None = None, **changes: Any) -> BrokerProcess:
        config = broker_config(self.folder, self.etcd, name=name, application=self.application, **changes)
        _present(config, tls)
        made = BrokerProcess(self.folder, config)
        self._processes.callback(made.end)
        made.wait_state("ready", registered=True)
        return made

    def replica(
        self, name: str = "worker-r1-0", tls: TlsConfig | None = None, ttl_s: int = 3, **triton: Any
    ) -> ReplicaProcess:
        folder = self.folder / name / str(len(list(self.folder.glob(f"{name}/*"))))
        folder.mkdir(parents=True)
        command = prepare_command(folder, self.repository)
        config = replica_config(command, self.etcd, replica_id=name, ttl_s=ttl_s, triton=pb.TritonDeployment(**triton))
        config.application, config.deployment = self.application, WORKER
        config.drain_timeout_s = 60
        _present(config, tls)
        made = self._processes.enter_context(ReplicaProcess(folder, config))
        made.wait_state("ready")
        return made

    def go(self) -> None:
        """What waits in `gated` may end."""
        self.gate.touch()


def _present(config: pb.ReplicaConfig, tls: TlsConfig | None) -> None:
    if tls is not None:
        config.serving_tls.CopyFrom(pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file))


@pytest.fixture
def world(tmp_path: Path, etcd: EtcdCluster, request: pytest.FixtureRequest) -> Iterator[World]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    with ExitStack() as processes:
        made = World(tmp_path, etcd.config(), name, processes)
        processes.callback(made.go)
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[World]:
    """One whose broker and replica live through several tests."""
    with ExitStack() as processes:
        made = World(tmp_path_factory.mktemp("shared"), etcd.config(), "shared", processes)
        processes.callback(made.go)
        made.broker(max_result_bytes=3_000_000)
        made.shared_replica = made.replica()
        yield made


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[AsyncMeshClient]:
    async with AsyncMeshClient(Connection(etcd.config())) as made:
        yield made


Submit = Callable[..., Any]


def submit_to(client: AsyncMeshClient, world: World) -> Submit:
    async def submitted(number: float, model: str = "echo", **options: Any) -> Ticket:
        tensor = np.array([number], dtype=np.float32)
        return await client.submit(world.application, WORKER, {"IN": tensor}, model=model, **options)

    return submitted


@pytest.fixture
def submit(client: AsyncMeshClient, world: World) -> Submit:
    return submit_to(client, world)


@pytest.fixture
def submit_shared(client: AsyncMeshClient, shared: World) -> Submit:
    return submit_to(client, shared)


async def echoed(ticket: Ticket) -> float:
    outputs = await ticket.result(timeout_s=RESULT_S)
    return float(outputs["OUT"][0])


async def state_is(ticket: Ticket, state: str) -> None:
    async def there() -> bool:
        return await ticket.state() == state

    await aeventually(there, timeout_s=60, what=f"{ticket!r} is {state}")


def metric(replica: ReplicaProcess, name: str) -> float:
    """The sum of the series of that name, of which there must be one."""
    address = replica.reports()[-1].metrics_address
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{re.escape(name)}[ {{]", line)]
    assert found, f"there is no {name}"
    return sum(found)


async def test_results_errors_and_parts(shared: World, submit_shared: Submit, client: AsyncMeshClient) -> None:
    submit, replica, app = submit_shared, shared.shared_replica, shared.application
    assert replica is not None
    before = metric(replica, "mesh_pull_items_total")
    tickets = await asyncio.gather(*(submit(number) for number in range(200)))
    assert await asyncio.gather(*(echoed(ticket) for ticket in tickets)) == list(range(200))

    large = np.arange(500_000, dtype=np.float32)
    ticket = await client.submit(app, WORKER, {"IN": large}, model="echo")
    np.testing.assert_array_equal((await ticket.result(timeout_s=RESULT_S))["OUT"], large)

    ticket = await submit(3, "parts")
    seen = [(part.number, float(part.outputs()["OUT"][0])) async for part in ticket.parts(timeout_s=RESULT_S)]
    assert seen == [(number, 3.0) for number in range(PARTS)]
    assert [float(one["OUT"][0]) for one in await ticket.result(timeout_s=RESULT_S)] == [3.0] * PARTS

    with pytest.raises(InvalidArgument, match="a bad day"):
        await echoed(await submit(1, "wrong"))
    with pytest.raises(NotFound, match="nowhere"):
        await echoed(await submit(1, "nowhere"))
    with pytest.raises(InvalidArgument, match="is asked by KServe v2"):
        await (await client.submit(app, WORKER, body={"x": 1})).result(timeout_s=RESULT_S)
    wrong = await client.submit(app, WORKER, {"OTHER": np.zeros(1, np.float32)}, model="echo")
    with pytest.raises(InvalidArgument, match="OTHER"):
        await wrong.result(timeout_s=RESULT_S)

    await eventually_async(lambda: metric(replica, "mesh_pull_held") == 0, timeout_s=60, what="all is stored")
    assert metric(replica, "mesh_pull_items_total") - before == 206
    assert metric(replica, "mesh_pull_brokers") == 1
    assert metric(replica, "mesh_ingress_in_flight") == 0


async def test_a_result_that_is_too_large_fails(shared: World, client: AsyncMeshClient) -> None:
    for model, floats in (("echo", 1_000_000), ("parts", 250_000)):
        tensor = np.zeros(floats, np.float32)
        ticket = await client.submit(shared.application, WORKER, {"IN": tensor}, model=model)
        with pytest.raises(FailedPrecondition, match="more than 3000000 bytes"):
            await ticket.result(timeout_s=RESULT_S)


async def test_a_cancelled_item_and_one_that_is_late_are_stopped(shared: World, submit_shared: Submit) -> None:
    submit, replica = submit_shared, shared.shared_replica
    assert replica is not None
    answered = 'mesh_ingress_calls_total{code="OK",method="ModelInfer"}'
    before = metric(replica, answered)
    cancelled = await submit(1, "gated")
    late = await submit(2, "gated", deadline_s=2.0)
    await state_is(cancelled, "RUNNING")
    await cancelled.cancel()
    for ticket, error in ((cancelled, Cancelled), (late, DeadlineExceeded)):
        with pytest.raises(error):
            await ticket.result(timeout_s=RESULT_S)
    assert metric(replica, "mesh_pull_held") >= 1, "the model has not heard of it yet"
    shared.go()
    await eventually_async(lambda: metric(replica, "mesh_pull_held") == 0, timeout_s=60, what="they have ended")
    assert metric(replica, answered) == before, "the model was told, and did not work for nobody"
    assert await echoed(await submit(3)) == 3


async def test_a_full_replica_keeps_what_it_has(world: World, submit: Submit) -> None:
    world.broker(per_replica=8)
    replica = world.replica(max_requests=2)
    tickets = [await submit(number, "gated") for number in range(8)]
    await eventually_async(lambda: metric(replica, "mesh_pull_held") >= 3, timeout_s=60, what="some wait for room")
    world.go()
    assert await asyncio.gather(*(echoed(ticket) for ticket in tickets)) == list(range(8))
    assert {(await ticket.info()).attempts for ticket in tickets} == {1}, "what is given back untouched does not count"


async def test_what_a_full_queue_of_a_model_refuses_is_no_attempt(world: World, submit: Submit) -> None:
    extra = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    write_model(world.repository, "narrow", delay_ms=300, extra=extra)
    world.broker(per_replica=12, max_attempts=1)
    replica = world.replica()
    tickets = await asyncio.gather(*(submit(number, "narrow") for number in range(12)))
    assert await asyncio.gather(*(echoed(ticket) for ticket in tickets)) == list(range(12))
    assert {(await ticket.info()).attempts for ticket in tickets} == {1}
    assert metric(replica, "mesh_pull_items_total") > 12, "some were given back"


async def test_a_killed_replica_loses_nothing(world: World, submit: Submit) -> None:
    world.broker(lease_s=60.0)
    replica = world.replica()
    ticket = await submit(7, "gated")
    await state_is(ticket, "RUNNING")
    replica.popen.kill()
    replica.wait()
    world.go()
    await asyncio.to_thread(world.replica)
    assert await echoed(ticket) == 7
    assert (await ticket.info()).attempts == 2


async def test_a_killed_broker_loses_nothing(world: World, submit: Submit) -> None:
    """Its journal goes to the other broker, and the replica goes on with what it holds."""
    first = world.broker(per_replica=2, lease_s=30.0)
    replica = world.replica()
    tickets = [await submit(number, "gated") for number in range(6)]
    await eventually_async(lambda: metric(replica, "mesh_pull_held") == 2, timeout_s=60, what="two run")
    first.kill()
    world.go()
    await eventually_async(lambda: metric(replica, "mesh_ingress_in_flight") == 0, timeout_s=60, what="they end")
    assert metric(replica, "mesh_pull_held") == 2, "nobody has stored them"
    await asyncio.to_thread(world.broker, "queue-r1-1", per_replica=2, lease_s=30.0)
    assert await asyncio.gather(*(echoed(ticket) for ticket in tickets)) == list(range(6))
    assert {(await ticket.info()).attempts for ticket in tickets} == {1}
    assert metric(replica, "mesh_pull_items_total") == 6, "each ran once"


async def test_a_replica_that_drains_finishes_what_it_runs(world: World, submit: Submit) -> None:
    world.broker(lease_s=60.0)
    replica = world.replica()
    ticket = await submit(1, "gated")
    await state_is(ticket, "RUNNING")
    replica.terminate()
    await asyncio.to_thread(replica.wait_state, "draining")
    waits = await submit(2)
    world.go()
    assert await echoed(ticket) == 1
    await asyncio.to_thread(replica.wait_state, "drained")
    assert replica.wait() == 0
    assert await waits.state() == "QUEUED"
    await asyncio.to_thread(world.replica, "worker-r1-1")
    assert await echoed(waits) == 2


async def test_two_brokers_with_tls(world: World, tmp_path: Path) -> None:
    tls = Authority.make(tmp_path / "tls").issue("replica")
    world.broker(tls=tls)
    world.broker("queue-r1-1", tls=tls)
    world.replica(tls=tls)
    async with AsyncMeshClient(Connection(world.etcd, tls=tls)) as client:

        async def submitted(number: int) -> Ticket:
            tensor = np.array([number], dtype=np.float32)
            return await client.submit(world.application, WORKER, {"IN": tensor}, model="slow")

        tickets = await asyncio.gather(*(submitted(number) for number in range(30)))
        assert len({ticket.id.partition(".")[0] for ticket in tickets}) == 2, "both brokers get some"
        assert await asyncio.gather(*(echoed(ticket) for ticket in tickets)) == list(range(30))
