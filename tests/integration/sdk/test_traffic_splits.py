"""Traffic splits at the client: shares, headers, keys, sides that fail, and copies for nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sdk_harness import FixedSource, Replica, Traffic, ask, until

from serving._proto import records_pb2 as pb
from serving.discovery.client_shadow import MAX_COPIES
from serving.errors import Unavailable

Start = Callable[..., list[Replica]]
CHANCES = 1200


def split(first: int = 9, second: int = 1, **changes: Any) -> pb.TrafficSplit:
    sides = [
        pb.TrafficSide(name="a", deployment="one", weight=first),
        pb.TrafficSide(name="b", deployment="two", weight=second),
    ]
    return pb.TrafficSplit(name="ab", model="digits", sides=sides, **changes)


def canary(weight: int) -> pb.TrafficSplit:
    sides = [pb.TrafficSide(name="new", weight=weight, revisions=[2]), pb.TrafficSide(name="old", weight=100 - weight)]
    return pb.TrafficSplit(name="canary-digits", deployment="digits", sides=sides)


def of_two(one: Replica, two: Replica) -> FixedSource:
    return FixedSource(one.endpoint(deployment="one"), two.endpoint(deployment="two"))


async def count(client: Any, requests: int, **options: Any) -> Counter[str]:
    return Counter([await ask(client, **options) for _ in range(requests)])


async def test_shares_follow_the_weights_and_their_changes(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = of_two(one, two)
    source.split(split(9, 1))
    client = await connect(source)
    # Six standard deviations of a binomial distribution: once in 500 million runs it is more.
    assert 60 <= (await count(client, CHANCES))["two"] <= 180
    source.split(split(0, 1))
    await until(lambda: client._peers.traffic and client._peers._splits[0].sides[0].weight == 0)
    assert await count(client, 50) == {"two": 50}
    source.split()
    await until(lambda: not client._peers.traffic)
    while await ask(client) != "one":  # without a split both are used again, once its latency has faded
        pass


async def test_headers_and_keys_decide(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = of_two(one, two)
    source.split(split(1, 1, key="user", matches=[pb.HeaderMatch(header="x-side", value="b", side="b")]))
    client = await connect(source)
    assert await count(client, 20, metadata=(("x-side", "b"), ("user", "user-2"))) == {"two": 20}
    users = {f"user-{number}": await count(client, 5, metadata=(("user", f"user-{number}"),)) for number in range(40)}
    assert all(len(seen) == 1 for seen in users.values()), "each user stays on one side"
    assert {name for seen in users.values() for name in seen} == {"one", "two"}
    assert await count(client, 20, deployment="one") == {"one": 20}, "who names a deployment gets it"


async def test_users_move_one_way_only_while_a_canary_grows(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource(one.endpoint(revision=1), two.endpoint(revision=2))
    client = await connect(source)
    before: set[str] = set()
    for weight in (0, 10, 40, 100):
        made = canary(weight)
        made.key = "user"
        source.split(made)
        await until(lambda: client._peers._splits == (made,))  # noqa: B023
        users = [f"user-{number}" for number in range(60)]
        new = {user for user in users if await ask(client, metadata=(("user", user),)) == "two"}
        assert before <= new, "nobody goes back"
        before = new
    assert len(before) == 60


async def test_a_side_that_dies_is_replaced_by_the_other_and_nobody_fails(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = of_two(one, two)
    source.split(split(1, 1))
    client = await connect(source)
    async with Traffic(lambda: ask(client), callers=4) as traffic:
        await traffic.more(20, of="one")
        await traffic.more(20, of="two")
        two.kill()
        await traffic.more(200, of="one")
    assert not traffic.errors
    assert client.stats.spared > 0


async def test_a_side_without_weight_is_nobodys_spare(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource(two.endpoint(deployment="two"))
    source.split(split(1, 0))
    client = await connect(source)
    with pytest.raises(Unavailable, match=r"the traffic split allows none of those that are there: ab/a"):
        await ask(client, timeout_s=0.5)
    waiting = asyncio.ensure_future(ask(client))
    await until(lambda: client.stats.waited == 2)
    source.set(one.endpoint(deployment="one"), two.endpoint(deployment="two"))
    assert await waiting == "one"
    assert two.counts()["infer"] == 0


async def test_copies_are_sent_and_their_answers_dropped(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = of_two(one, two)
    source.split(split(1, 0, shadow=pb.Shadow(deployment="two", percent=100)))
    client = await connect(source)
    assert await count(client, 30) == {"one": 30}
    await until(lambda: two.counts()["infer"] == 30)
    two.behave("error", code="INTERNAL", details="not yet right")
    assert await count(client, 30) == {"one": 30}
    await until(lambda: client.stats.shadows_failed == 30)
    assert (client.stats.shadows, client.stats.failed, client.stats.ejections) == (60, 0, 0)


async def test_copies_that_hang_are_bounded_and_disturb_nobody(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = of_two(one, two)
    source.split(split(1, 0, shadow=pb.Shadow(deployment="two", percent=100)))
    client = await connect(source)
    two.behave("hold")
    assert await count(client, MAX_COPIES + 50) == {"one": MAX_COPIES + 50}
    assert client.stats.shadows == MAX_COPIES
    assert client.stats.shadows_dropped == 50


async def test_requests_that_wait_heed_splits_that_come_meanwhile(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource()
    client = await connect(source)
    waiting = [asyncio.ensure_future(ask(client)) for _ in range(20)]
    await until(lambda: client.stats.waited == 20)
    source.split(split(1, 0))
    source.set(one.endpoint(deployment="one"), two.endpoint(deployment="two"))
    assert Counter(await asyncio.gather(*waiting)) == {"one": 20}
    assert two.counts()["infer"] == 0
