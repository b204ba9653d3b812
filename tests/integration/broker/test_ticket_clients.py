"""The SDK's client and the brokers of an application in a real etcd: who is asked, and what is repeated when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from serving import AsyncMeshClient, Connection
from serving._proto import broker_pb2 as bpb
from serving.broker.draining import DRAINED
from serving.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from serving.local.etcd import EtcdCluster
from serving.sdk import QueueFull, Ticket
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.integration.broker.scripted_broker import ScriptedBroker
from tests.support.waiting import aeventually, eventually_async

Make = Callable[..., ScriptedBroker]


class Listed:
    """Which brokers discovery shows of an application."""

    def __init__(self, store: EtcdClient, app: AppKey) -> None:
        self.app = app
        self._store = store

    async def put(self, broker: ScriptedBroker) -> None:
        record = broker.endpoint
        record.namespace, record.application, record.deployment = self.app.namespace, self.app.name, "queue"
        await self._store.put(keys.endpoint(self.app, "broker", "queue", broker.name), encode(record))

    async def remove(self, broker: ScriptedBroker) -> None:
        await self._store.delete(keys.endpoint(self.app, "broker", "queue", broker.name))


@pytest.fixture
async def listed(etcd: EtcdCluster, request: pytest.FixtureRequest) -> AsyncIterator[Listed]:
    store = EtcdClient(etcd.config())
    yield Listed(store, AppKey("default", request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")))
    await store.close()


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[AsyncMeshClient]:
    async with AsyncMeshClient(Connection(etcd.config())) as made:
        yield made


async def submit(client: AsyncMeshClient, listed: Listed, key: str = "", timeout_s: float = 20.0) -> Ticket:
    return await client.submit(listed.app, "it", {"x": [1]}, idempotency_key=key, timeout_s=timeout_s)


async def test_every_request_gets_a_key_and_equal_keys_one_broker(
    client: AsyncMeshClient, listed: Listed, broker: Make
) -> None:
    both = [await broker(name, f"j{name}").start() for name in ("a", "b")]
    for one in both:
        await listed.put(one)
    first = await submit(client, listed, "mine")
    assert str(first).startswith(f"{listed.app}/j")
    assert (await submit(client, listed, "mine")).repeated
    assert [len(one.submitted) for one in both] in ([2, 0], [0, 2])
    for _ in range(20):
        await submit(client, listed)
    own = [request.idempotency_key for one in both for request in one.submitted if request.idempotency_key != "mine"]
    assert len(set(own)) == 20
    for one in both:
        assert all(request.new_key == (request.idempotency_key != "mine") for request in one.submitted)
    assert all(one.submitted for one in both), "requests without a key are spread"


async def test_a_broker_that_was_not_reached_is_left(client: AsyncMeshClient, listed: Listed, broker: Make) -> None:
    dead, alive = await broker("a", "ja").start(), await broker("b", "jb").start()
    await dead.stop()
    for one in (dead, alive):
        await listed.put(one)
    tickets = await asyncio.gather(*(submit(client, listed) for _ in range(10)))
    assert {ticket.id for ticket in tickets} == {"jb.1"}


async def test_a_request_that_may_be_taken_stays_with_its_journal(
    client: AsyncMeshClient, listed: Listed, broker: Make
) -> None:
    """It is asked for again wherever the journal is served, and nowhere else."""
    one, other, heir = broker("a", "j"), broker("b", "k"), broker("c", "l", "j")
    for each in (one, heir):
        await each.start()
    one.lose = 1
    await listed.put(one)
    sending = asyncio.create_task(submit(client, listed))
    await eventually_async(lambda: len(one.submitted) >= 2, timeout_s=30, what="it is repeated")
    ticket = await sending
    assert ticket.repeated
    assert one.submitted[0].idempotency_key == one.submitted[1].idempotency_key
    assert [request.new_key for request in one.submitted] == [True, False], "it may be known by then"

    one.lose = 1000
    await other.start()
    sending = asyncio.create_task(submit(client, listed))
    await eventually_async(lambda: len(one.submitted) >= 3, timeout_s=30, what="it is taken")
    await listed.put(other)
    await listed.remove(one)
    await listed.put(heir)
    assert (await sending).id == "l.1"
    assert other.submitted == []
    assert heir.submitted[0].idempotency_key == one.submitted[-1].idempotency_key


async def test_when_nobody_can_say_whether_it_was_taken(client: AsyncMeshClient, listed: Listed, broker: Make) -> None:
    one = await broker("a", "j").start()
    one.lose = 1000
    await listed.put(one)
    with pytest.raises(DeadlineExceeded, match="submit it again with idempotency_key='") as late:
        await submit(client, listed, timeout_s=1.0)
    assert repr(one.submitted[0].idempotency_key) in late.value.message
    assert len(one.keys) == 1


async def test_answers_that_are_not_repeated(client: AsyncMeshClient, listed: Listed, broker: Make) -> None:
    one = await broker("a", "j").start()
    await listed.put(one)
    one.refuse = (grpc.StatusCode.RESOURCE_EXHAUSTED, "1000000 items wait")
    with pytest.raises(QueueFull, match="1000000 items wait") as full:
        await submit(client, listed)
    assert full.value.retry_after_s == 1.5
    one.refuse = (grpc.StatusCode.INVALID_ARGUMENT, "too many labels")
    with pytest.raises(InvalidArgument, match="too many labels"):
        await submit(client, listed)
    assert len(one.submitted) == 2
    with pytest.raises(NotFound, match="takes requests for the deployment `other`"):
        await client.submit(listed.app, "other", {"x": [1]})


async def test_an_application_without_brokers(client: AsyncMeshClient, listed: Listed) -> None:
    with pytest.raises(Unavailable, match="has no broker in discovery"):
        await submit(client, listed, timeout_s=0.5)
    with pytest.raises(NotFound, match="has no broker in discovery"):
        await client.queue.statistics(listed.app)
    with pytest.raises(Unavailable, match=r"no broker of .* serves the journal j now"):
        await client.ticket(f"{listed.app}/j.1.s").state(timeout_s=0.5)


async def test_a_ticket_follows_its_journal(client: AsyncMeshClient, listed: Listed, broker: Make) -> None:
    one, other = await broker("a", "j").start(), await broker("b", "k").start()
    for each in (one, other):
        await listed.put(each)
    ticket = client.ticket(f"{listed.app}/j.1.secret")
    assert await ticket.state() == "QUEUED"
    one.journals = ()
    asking = asyncio.create_task(ticket.state())
    await eventually_async(lambda: len(one.asked) >= 3, timeout_s=30, what="the old home is asked again")
    other.journals, other.state = ("k", "j"), bpb.RUNNING
    await listed.put(one)
    await listed.put(other)
    assert await asking == "RUNNING"


async def test_a_drained_broker_is_left_for_another_one(client: AsyncMeshClient, listed: Listed, broker: Make) -> None:
    both = {name: await broker(name, f"j{name}").start() for name in ("a", "b")}
    for one in both.values():
        await listed.put(one)
    keys_ = [f"key{number}" for number in range(8)]
    for key in keys_:
        await submit(client, listed, key)
    assert both["a"].submitted, "with equal shares half of the keys are its own"
    both["a"].refuse = (grpc.StatusCode.UNAVAILABLE, DRAINED)
    both["a"].submitted.clear()
    for _ in range(20):
        await submit(client, listed)
    assert len(both["b"].submitted) >= 20
    both["a"].drained = True
    await listed.put(both["a"])

    async def passed_over() -> bool:
        both["a"].submitted.clear()
        for _ in range(10):
            await submit(client, listed)
        return not both["a"].submitted

    await aeventually(passed_over, timeout_s=30, what="its record is read")
    for key in keys_:
        await submit(client, listed, key)
    assert both["a"].submitted, "it is asked whether it has a key of the caller's"
    assert {request.idempotency_key for request in both["b"].submitted} >= set(keys_)
    both["b"].refuse = both["a"].refuse
    for key in ("", "mine"):
        with pytest.raises(Unavailable, match=rf"every broker of {listed.app} .* is drained: undo it with"):
            await submit(client, listed, key)
