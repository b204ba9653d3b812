"""Canaries, splits and copies on a real cluster, with clients that follow discovery while everything changes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from serving._proto import records_pb2 as pb
from serving.errors import Internal
from serving.store import keys
from serving.store.records import decode, encode
from serving.store.types import Changes, Op
from serving.timeouts import cancel_and_wait
from tests.integration.master.asking import application, clients, packed_code, says
from tests.integration.master.small_mesh import CLUSTER, Keeper, SmallMesh, until
from tests.support.processes import master_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def code(mesh: SmallMesh) -> pb.Artifact:
    return packed_code(mesh)


def canary(*weights: float, for_s: float = 1.0, manual: bool = False) -> pb.Canary:
    steps = [pb.CanaryStep(weight=weight, for_s=0 if manual else for_s, manual=manual) for weight in weights]
    return pb.Canary(steps=steps, checks=pb.CanaryChecks(min_requests=10))


async def record(keeper: Keeper) -> pb.TrafficRecord | None:
    kv = await keeper.client.get(keys.traffic(keeper.app))
    return decode(pb.TrafficRecord, kv.value) if kv is not None else None


async def promote(keeper: Keeper, steps: int) -> None:
    """What a keeper does with `mesh rollout promote`."""
    keeper.stored.promoted = steps
    order = keys.placement(CLUSTER, keeper.app)
    await keeper.client.txn([], [Op.put(order, encode(keeper.order()))])


@asynccontextmanager
async def steps_of(keeper: Keeper) -> AsyncIterator[list[tuple[str, int, float]]]:
    """The steps of which the status tells while this is entered, also those that are over soon."""
    seen: list[tuple[str, int, float]] = []

    async def follow() -> None:
        async with aclosing(keeper.client.watch(keys.status(keeper.app))) as events:
            async for event in events:
                if isinstance(event, Changes):
                    seen.extend(step_of(decode(pb.ApplicationStatus, kv.value)) for kv in event.puts)

    following = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        await cancel_and_wait(following)


def step_of(status: pb.ApplicationStatus) -> tuple[str, int, float]:
    told = status.deployments[0].canary
    return told.phase, told.step, told.weight


def came(steps: list[tuple[str, int, float]], step: tuple[str, int, float]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return step in steps

    return look


async def test_a_canary_goes_to_all_and_no_request_fails(keeper: Keeper, code: pb.Artifact) -> None:
    first = says(code, 1, replicas=2)
    first.rollout.canary.CopyFrom(canary(20, 50))
    first.rollout.canary.matches.add(header="x-canary", value="yes")
    await keeper.place(application(keeper, first))
    await keeper.wait_ready()
    async with clients(keeper) as asking:
        await asking.since_now(20)
        second = says(code, 2, replicas=2)
        second.rollout.canary.CopyFrom(canary(20, 50))
        second.rollout.canary.matches.add(header="x-canary", value="yes")
        async with steps_of(keeper) as steps:
            await keeper.place(application(keeper, second))
            await until(came(steps, ("stepping", 1, 20.0)), told=lambda: str(steps))
            assert await asking.one(("x-canary", "yes")) == 2
            await until(came(steps, ("stepping", 2, 50.0)), told=lambda: str(steps))
        await keeper.wait_ready()
        assert set(await asking.since_now(50)) == {2}
    assert not asking.failures
    left = await record(keeper)
    assert left is not None
    assert not left.splits
    assert not left.canaries
    await keeper.delete()
    await keeper.wait_gone()
    assert await record(keeper) is None


async def test_a_failing_canary_gets_nothing_any_more_and_the_old_one_goes_on(
    keeper: Keeper, code: pb.Artifact
) -> None:
    first = says(code, 1, replicas=2)
    await keeper.place(application(keeper, first))
    await keeper.wait_ready()
    async with clients(keeper) as asking:
        second = says(code, 2, replicas=2, failing=2)
        second.rollout.canary.CopyFrom(canary(25, for_s=60.0))
        await keeper.place(application(keeper, second))
        status = await keeper.wait_status(lambda status: status.deployments[0].canary.phase == "failed")
        assert "requests failed" in status.deployments[0].canary.reason
        await until(lambda: _are(keeper, {1: 2}))
        assert all(isinstance(error, Internal) for error in asking.failures), "what the revision itself answered"
        asking.failures.clear()
        assert set(await asking.since_now(100)) == {1}
        assert not asking.failures
        degraded = await keeper.wait_status(lambda status: status.phase == pb.DEGRADED)
        assert "its canary has failed" in degraded.message
        await keeper.place(application(keeper, first))
        await keeper.wait_ready()
    assert not asking.failures


async def _are(keeper: Keeper, wanted: dict[int, int]) -> bool:
    """The endpoints that take new work, by revision."""
    found = Counter(one.revision for one, _ in (await keeper.endpoints()).values() if one.state == "ready")
    return dict(found) == wanted


async def test_a_master_that_is_killed_goes_on_at_its_step(mesh: SmallMesh, keeper: Keeper, code: pb.Artifact) -> None:
    first = says(code, 1)
    await keeper.place(application(keeper, first))
    await keeper.wait_ready()
    second = says(code, 2)
    second.rollout.canary.CopyFrom(canary(10, 60, manual=True))
    async with clients(keeper) as asking:
        await keeper.place(application(keeper, second))
        await keeper.wait_status(lambda status: step_of(status) == ("stepping", 1, 10.0))
        await promote(keeper, 1)
        await keeper.wait_status(lambda status: step_of(status) == ("stepping", 2, 60.0))
        before = await record(keeper)
        (pid,) = master_pids(mesh.ray)
        os.kill(pid, signal.SIGKILL)

        async def another() -> bool:
            found = master_pids(mesh.ray)
            return bool(found) and found != [pid]

        await until(another)
        assert await record(keeper) == before
        shares = await asking.since_now(300)
        assert 100 < shares[2] < 250  # 60 %, and never less than six standard deviations
        await promote(keeper, 2)
        await keeper.wait_ready()
        assert set(await asking.since_now(30)) == {2}
    assert not asking.failures


async def test_splits_and_copies_reach_clients(keeper: Keeper, code: pb.Artifact) -> None:
    wanted = application(
        keeper, says(code, 1, name="one"), says(code, 2, name="two"), says(code, 3, name="three", failing=1)
    )
    split = wanted.traffic.add(name="says", model="says", key="user")
    split.sides.add(name="one", deployment="one", weight=1)
    split.sides.add(name="two", deployment="two", weight=0)
    split.shadow.deployment, split.shadow.percent = "three", 100.0
    await keeper.place(wanted)
    await keeper.wait_ready()
    async with clients(keeper) as asking:
        assert set(await asking.since_now(50)) == {1}
        before = (await keeper.endpoints()).keys()
        wanted.traffic[0].sides[1].weight = 1
        await keeper.place(wanted)

        async def both() -> bool:
            return asking.answers[2] > 0

        await until(both)
        users = {
            f"user-{number}": {await asking.one(("user", f"user-{number}")) for _ in range(3)} for number in range(12)
        }
        assert all(len(seen) == 1 for seen in users.values())
        await keeper.wait_ready()
        assert (await keeper.endpoints()).keys() == before, "weights replace nobody"
        assert asking.client.stats.shadows_failed > 0
    assert not asking.failures
