"""Requests that wait: real etcd, brokers and replicas as processes, the SDK's client, and what kills them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving import AsyncMeshClient
from serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from serving.local.etcd import EtcdCluster
from serving.sdk import Ticket
from tests.support.broker_serving import WORKER, go
from tests.support.broker_world import World, mesh, mesh_json
from tests.support.waiting import aeventually, eventually_async

pytestmark = pytest.mark.timeout(900)
RESULT_S = 120.0


Submit = Callable[..., Any]


@pytest.fixture
def submit(client: AsyncMeshClient, world: World) -> Submit:
    async def submitted(number: int, do: str = "", **options: Any) -> Ticket:
        options["parameters"] = {"do": do}
        return await client.submit(world.application, WORKER, {"n": np.array([number])}, **options)

    return submitted


async def state_is(ticket: Ticket, state: str) -> None:
    async def there() -> bool:
        return await ticket.state() == state

    await aeventually(there, timeout_s=60, what=f"{ticket!r} is {state}")


async def noted(world: World, line: str) -> None:
    await eventually_async(lambda: line in world.runs, timeout_s=60, what=line)


async def doubled(ticket: Ticket) -> int:
    outputs = await ticket.result(timeout_s=RESULT_S)
    return int(outputs["doubled"][0])


async def test_results_errors_and_what_is_told_of_them(world: World, submit: Submit, client: AsyncMeshClient) -> None:
    world.broker()
    first = await submit(1, idempotency_key="one", tenant="t", priority="high", labels={"kind": "small"})
    assert not first.repeated
    assert await first.state() == "QUEUED"
    info = await first.info()
    assert (info.tenant, info.priority, dict(info.labels), info.attempts) == ("t", "high", {"kind": "small"}, 0)
    again = await submit(1, idempotency_key="one", tenant="t")
    assert (str(again), again.repeated) == (str(first), True)
    with pytest.raises(DeadlineExceeded):
        await first.result(timeout_s=0.3)
    world.worker()
    assert await doubled(first) == 2
    same = client.ticket(str(first))
    assert await doubled(same) == 2
    assert await same.state() == "SUCCEEDED"

    with pytest.raises(InvalidArgument, match="not this one"):
        await (await submit(2, "refuse")).result(timeout_s=RESULT_S)
    with pytest.raises(Internal, match="a bad day"):
        await (await submit(3, "fail")).result(timeout_s=RESULT_S)
    with pytest.raises(NotFound):
        await (await submit(4, model="other")).result(timeout_s=RESULT_S)


async def test_what_no_broker_takes(world: World, submit: Submit, client: AsyncMeshClient) -> None:
    world.broker(max_request_bytes=2000, max_items=2)
    app = world.application
    with pytest.raises(NotFound, match=r"no broker of .* takes requests for the deployment `reader`"):
        await client.submit(app, "reader", {"n": [1]})
    with pytest.raises(InvalidArgument, match="give either inputs"):
        await client.submit(app, WORKER)
    with pytest.raises(InvalidArgument, match="priority 'urgent' is not known"):
        await submit(1, priority="urgent")
    ticket = await submit(1)
    wrong = str(ticket)[:-3] + "abc"
    with pytest.raises(NotFound):
        await client.ticket(wrong).state()


async def test_many_go_through_several_replicas_and_brokers(world: World, submit: Submit) -> None:
    world.broker()
    world.broker("queue-r1-1")
    world.worker()
    world.worker("worker-r1-1")
    tickets = await asyncio.gather(*(submit(number) for number in range(100)))
    assert len({ticket.id.partition(".")[0] for ticket in tickets}) == 2, "both brokers get some"
    assert await asyncio.gather(*(doubled(ticket) for ticket in tickets)) == [2 * number for number in range(100)]
    assert len(world.runs) == 200, "each ran once"


async def test_parts_of_a_class_that_yields(world: World, submit: Submit) -> None:
    world.broker()
    world.worker(entry="Counts")
    ticket = await submit(5, "wait")
    seen = []
    async for part in ticket.parts(timeout_s=RESULT_S):
        seen.append((part.number, int(part.outputs()["i"][0])))
        if len(seen) == 4:
            assert await ticket.state() == "RUNNING"
            go(world.folder)
    assert seen == [(number, number) for number in range(5)]
    assert [int(one["i"][0]) for one in await ticket.result(timeout_s=RESULT_S)] == [0, 1, 2, 3, 4]
    late = [int(part.outputs()["i"][0]) async for part in ticket]
    assert late == [0, 1, 2, 3, 4]


async def test_a_cancelled_item_is_stopped_in_its_replica(world: World, submit: Submit) -> None:
    world.broker()
    queued = await submit(1, "wait")
    assert (await queued.cancel()).state == "CANCELLED"
    world.worker()
    running = await submit(2, "wait")
    await noted(world, "began 2")
    await running.cancel()
    await noted(world, "stopped 2")
    for ticket in (queued, running):
        with pytest.raises(Cancelled):
            await ticket.result(timeout_s=RESULT_S)
    go(world.folder)
    assert (await running.retry()).state in ("QUEUED", "RUNNING", "SUCCEEDED")
    assert await doubled(running) == 4
    assert "began 1" not in world.runs


async def test_a_deadline_ends_what_runs_and_what_waits(world: World, submit: Submit) -> None:
    world.broker()
    waits = await submit(1, deadline_s=0.2)
    await state_is(waits, "EXPIRED")
    world.worker()
    runs = await submit(2, "wait", deadline_s=2.0)
    with pytest.raises(DeadlineExceeded):
        await runs.result(timeout_s=RESULT_S)
    await noted(world, "stopped 2")
    assert "began 1" not in world.runs


async def test_a_killed_replica_loses_nothing(world: World, submit: Submit) -> None:
    world.broker(lease_s=60.0)
    worker = world.worker()
    ticket = await submit(7, "wait")
    await noted(world, "began 7")
    worker.kill()
    go(world.folder)
    world.worker()
    assert await doubled(ticket) == 14
    assert world.runs == ["began 7", "began 7", "ended 7"]
    assert (await ticket.info()).attempts == 2


async def test_a_replica_that_dies_for_good_gives_its_items_to_another_one(world: World, submit: Submit) -> None:
    """Its endpoint goes with its lease in the store, long before that of the item."""
    world.broker(lease_s=120.0)
    worker = world.worker()
    ticket = await submit(7, "wait")
    await noted(world, "began 7")
    world.worker("worker-r1-1")
    worker.kill()
    go(world.folder)
    assert await doubled(ticket) == 14
    assert (await ticket.info()).replica == "worker-r1-1"


async def test_a_killed_broker_loses_nothing(world: World, submit: Submit) -> None:
    broker = world.broker(per_replica=2, lease_s=20.0)
    world.worker()
    tickets = [await submit(number, "wait") for number in range(6)]
    await eventually_async(lambda: len(world.runs) == 2, timeout_s=60, what="two run")
    broker.kill()
    go(world.folder)
    await eventually_async(lambda: len(world.runs) == 4, timeout_s=60, what="they end while nobody is there")
    world.broker(per_replica=2, lease_s=20.0)
    assert await asyncio.gather(*(doubled(ticket) for ticket in tickets)) == [2 * number for number in range(6)]
    assert sorted(world.runs) == sorted([f"{what} {number}" for what in ("began", "ended") for number in range(6)])


async def test_an_update_of_the_broker_is_not_noticed(world: World, submit: Submit) -> None:
    """The new one comes, the old one drains, while requests come and run."""
    old = world.broker(lease_s=20.0)
    world.worker()
    running = await submit(1000, "wait")
    await noted(world, "began 1000")
    over = asyncio.Event()
    tickets: list[Ticket] = []

    async def traffic() -> None:
        while not over.is_set():
            tickets.append(await submit(len(tickets)))

    sending = [asyncio.create_task(traffic()) for _ in range(3)]
    await eventually_async(lambda: len(tickets) > 10, timeout_s=60, what="traffic")
    world.broker("queue-r2-0", lease_s=20.0)
    old.terminate()
    await asyncio.to_thread(old.wait_state, "drained")
    after = len(tickets)
    await eventually_async(lambda: len(tickets) > after + 10, timeout_s=60, what="traffic at the new one")
    over.set()
    await asyncio.gather(*sending)
    go(world.folder)
    assert await doubled(running) == 2000
    await asyncio.gather(*(doubled(ticket) for ticket in tickets))
    assert world.runs.count("began 1000") == 1
    assert len(world.runs) == 2 * len(tickets) + 2, "each ran once"


async def test_a_replica_that_drains_finishes_what_it_runs(world: World, submit: Submit) -> None:
    world.broker(lease_s=60.0)
    worker = world.worker()
    ticket = await submit(1, "wait")
    await noted(world, "began 1")
    worker.terminate()
    await eventually_async(lambda: worker.report.state == "draining", timeout_s=60, what="it drains")
    waits = await submit(2)
    go(world.folder)
    assert await doubled(ticket) == 2
    await asyncio.to_thread(worker.wait_state, "drained")
    assert await waits.state() == "QUEUED"
    assert world.runs == ["began 1", "ended 1"]
    world.worker("worker-r1-1")
    assert await doubled(waits) == 4


async def test_items_that_kill_are_given_up(world: World, submit: Submit) -> None:
    world.broker(max_attempts=2, lease_s=60.0)
    ticket = await submit(1, "wait")
    for attempt in range(1, 3):
        worker = world.worker()
        await eventually_async(lambda a=attempt: world.runs.count("began 1") == a, timeout_s=60, what="it runs")  # type: ignore[misc]
        worker.kill()
    world.worker()
    with pytest.raises(FailedPrecondition, match="was given up after 2 attempts"):
        await ticket.result(timeout_s=RESULT_S)


async def test_the_command_shows_and_changes_them(world: World, submit: Submit) -> None:
    world.broker(max_attempts=1, lease_s=60.0)
    worker = world.worker()
    killed = await submit(1, "wait")
    await noted(world, "began 1")
    worker.kill()
    world.worker().end()
    await state_is(killed, "DEAD")
    waiting = await submit(2, tenant="t")

    app = world.application
    listed, dead, shown, statistics = await asyncio.gather(
        mesh_json(world, "list", app),
        mesh_json(world, "list", app, "--state", "dead"),
        mesh_json(world, "show", app, waiting.id),
        mesh_json(world, "stats", app),
    )
    assert [(item["id"], item["state"]) for item in listed["items"]] == [(killed.id, "DEAD"), (waiting.id, "QUEUED")]
    assert [item["id"] for item in dead["items"]] == [killed.id]
    assert (shown["tenant"], shown["state"], shown["deployment"]) == ("t", "QUEUED", WORKER)
    (row,) = (one for one in statistics["queues"] if one["deployment"] == WORKER)
    assert (row["queued"], row["running"], row["dead"]) == (1, 0, 1)

    tables = await asyncio.gather(*(mesh(world, *words) for words in (["list", app], ["stats", app])))
    assert all(code == 0 and WORKER in said for code, said in tables)
    missing, nonsense, text = await asyncio.gather(
        mesh(world, "show", app, killed.id + "9"), mesh(world, "show", app, "x"), mesh(world, "show", app, killed.id)
    )
    assert (missing[0], nonsense[0], text[0]) == (3, 2, 0)
    assert "DEAD" in text[1]

    drained = await mesh_json(world, "drain", app)
    assert drained["brokers"] == [{"broker": "queue-r1-0", "drained": True, "live": 1, "items": 2}]
    assert "drained" in (await mesh(world, "stats", app))[1]
    assert "queue-r1-0 takes new requests" in (await mesh(world, "drain", app, "queue-r1-0", "--undo"))[1]

    cancelled, retried = await asyncio.gather(
        mesh_json(world, "cancel", app, waiting.id), mesh_json(world, "retry", app, killed.id)
    )
    assert (cancelled["state"], retried["state"]) == ("CANCELLED", "QUEUED")
    go(world.folder)
    world.worker()
    assert await doubled(killed) == 2


async def test_without_the_store_everything_goes_on(world: World, submit: Submit, etcd: EtcdCluster) -> None:
    """What vanishes from discovery because the store was away has not left."""
    world.broker(lease_s=60.0, per_replica=4)
    worker = world.worker()
    ticket = await submit(1, "wait")
    await noted(world, "began 1")
    pids = [member.process.pid for member in etcd.members if member.process is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert await doubled(await submit(2)) == 4
        await asyncio.sleep(worker.config.lease_ttl_s + 1)  # so long that the store forgets who was there
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert await doubled(await submit(3)) == 6
    go(world.folder)
    assert await doubled(ticket) == 2
    assert world.runs.count("began 1") == 1
