"""Endpoints that die, hang, drain or fail while requests flow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sdk_harness import FixedSource, Replica, Traffic, ask, until

from serving.discovery.client_config import ClientConfig
from serving.discovery.client_health import HealthConfig
from serving.errors import DeadlineExceeded, Unavailable
from serving.local.ports import free_ports
from serving.routing import OutlierConfig

Start = Callable[..., list[Replica]]
StartOn = Callable[[str, int], Replica]
BACK_SOON = ClientConfig(outliers=OutlierConfig(base_s=0.2, max_s=1.0))
# Takes a server for hung that does not run for a second, be it that the machine is busy.
QUICK = replace(BACK_SOON, health=HealthConfig(tick_s=0.05, suspect_after_s=0.3, probe_timeout_s=0.5))


async def test_no_request_fails_when_one_of_two_is_killed(replicas: Start, connect: Any) -> None:
    """It stays in discovery all the time: its lease has not run out yet."""
    one, two = replicas("one", "two")
    client = await connect(FixedSource(one.endpoint(), two.endpoint()))
    async with Traffic(lambda: ask(client), callers=16) as traffic:
        await traffic.more(200, of="one")
        one.kill()
        await traffic.more(500)
    assert traffic.errors == []
    assert client.stats.ejections >= 1
    assert client.stats.failed == 0


async def test_running_requests_of_a_killed_one_are_answered_elsewhere(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    client = await connect(FixedSource(one.endpoint(), two.endpoint()))
    one.behave("hang")
    calls = [asyncio.create_task(ask(client)) for _ in range(20)]
    await until(lambda: one.counts()["running"] >= 5, what="some run there")
    one.kill()
    assert await asyncio.gather(*calls) == ["two"] * 20


async def test_it_gets_work_again_when_it_is_back(replicas: Start, start_on: StartOn, connect: Any) -> None:
    (two,) = replicas("two")
    (port,) = free_ports(1)  # which no outgoing connection takes while nobody listens
    one = await asyncio.to_thread(start_on, "one", port)
    client = await connect(FixedSource(one.endpoint(), two.endpoint()), config=BACK_SOON)
    async with Traffic(lambda: ask(client), callers=4) as traffic:
        await traffic.more(20, of="one")
        before = client.stats.ejections
        one.kill()
        await until(lambda: client.stats.ejections > before, what="it is ejected")
        await asyncio.to_thread(start_on, "one", port)
        await traffic.more(20, of="one")
        await until(lambda: client.stats.restored >= 1, what="it is taken back")
    assert traffic.errors == []


async def test_a_hung_one_is_ejected_and_its_requests_go_elsewhere(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    client = await connect(FixedSource(one.endpoint(), two.endpoint()), config=QUICK)
    async with Traffic(lambda: ask(client), callers=8) as traffic:
        await traffic.more(50, of="one")
        before_ejections = client.stats.ejections
        one.pause()
        await until(lambda: client.stats.ejections > before_ejections, what="it is ejected")
        await traffic.more(100, of="two")
        before = dict(traffic.answers)
        await traffic.more(100)
        assert traffic.answers["one"] == before["one"], "nothing goes there"
        one.resume()
        await traffic.more(20, of="one")
    assert traffic.errors == []


async def test_a_slow_one_is_not_taken_for_hung(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    one.behave(delay_s=2.0)
    health = HealthConfig(tick_s=0.05, suspect_after_s=0.3, probe_timeout_s=25.0)
    client = await connect(FixedSource(one.endpoint()), config=replace(BACK_SOON, health=health))
    assert await ask(client) == "one"
    assert client.stats.attempts == 1
    assert client.stats.ejections == 0
    assert one.counts()["live"] >= 1, "it was asked whether it is live"


async def test_a_slow_one_gets_less(replicas: Start, connect: Any) -> None:
    slow, fast = replicas("slow", "fast")
    slow.behave(delay_s=1.0)
    fast.behave(delay_s=0.01)
    client = await connect(FixedSource(slow.endpoint(), fast.endpoint()))
    async with Traffic(lambda: ask(client), callers=8) as traffic:
        await traffic.more(300)
    assert traffic.answers["fast"] > 5 * traffic.answers["slow"]


async def test_one_that_always_fails_is_left_out_and_tried_again(replicas: Start, connect: Any) -> None:
    bad, good = replicas("bad", "good")
    bad.behave("error", code="INTERNAL", details="broken")
    client = await connect(FixedSource(bad.endpoint(), good.endpoint()), config=BACK_SOON)
    failures = 0
    while client.stats.ejections == 0:
        try:
            await ask(client)
        except Exception:  # noqa: BLE001 - counted
            failures += 1
        assert failures <= 20
    assert 1 <= failures <= 20
    bad.behave()
    async with Traffic(lambda: ask(client), callers=2) as traffic:
        await traffic.more(10, of="bad")
        await until(lambda: client.stats.restored >= 1, what="it is taken back")


async def test_draining_finishes_what_runs_and_gets_nothing_new(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource(one.endpoint())
    client = await connect(source)
    one.behave("hold")
    running = [asyncio.create_task(ask(client)) for _ in range(5)]
    await until(lambda: one.counts()["running"] == 5, what="they run")
    source.set(one.endpoint(state="draining"), two.endpoint())
    await until(lambda: len(client.endpoints) == 2, what="the view is there")
    assert {await ask(client) for _ in range(20)} == {"two"}
    source.set(two.endpoint())
    one.behave()
    assert await asyncio.gather(*running) == ["one"] * 5
    assert one.counts()["infer"] == 5


async def test_a_refusal_while_draining_costs_nobody_anything(replicas: Start, connect: Any) -> None:
    """The replica drains before discovery says so."""
    one, two = replicas("one", "two")
    client = await connect(FixedSource(one.endpoint(), two.endpoint()), config=BACK_SOON)
    async with Traffic(lambda: ask(client, retry_safe=False), callers=8) as traffic:
        await traffic.more(50, of="one")
        one.behave("drain")
        await traffic.more(200, of="two")
    assert traffic.errors == []


async def test_all_down_is_said_in_time(replicas: Start, connect: Any) -> None:
    both = replicas("one", "two")
    client = await connect(FixedSource(*(replica.endpoint() for replica in both)))
    for replica in both:
        replica.kill()
    while client.stats.attempts <= 2:  # again, if the machine stops for the four seconds
        started = time.monotonic()
        with pytest.raises(
            (Unavailable, DeadlineExceeded), match=r"replica (one|two) at 127\.0\.0\.1:\d+, attempt \d+\)"
        ):
            await ask(client, timeout_s=4.0)
        assert time.monotonic() - started < 30


async def test_all_down_and_back_within_the_deadline(replicas: Start, connect: Any) -> None:
    both = replicas("one", "two")
    source = FixedSource(*(replica.endpoint() for replica in both))
    client = await connect(source)
    for replica in both:
        replica.kill()
    calls = [asyncio.create_task(ask(client, timeout_s=60.0)) for _ in range(3)]
    await until(lambda: client.stats.retries >= 6, what="they try")
    (third,) = replicas("third")
    source.set(third.endpoint())
    assert await asyncio.gather(*calls) == ["third"] * 3


async def test_connections_are_closed_when_endpoints_are_gone(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource(one.endpoint(), two.endpoint())
    client = await connect(source)
    assert {await ask(client) for _ in range(30)} == {"one", "two"}
    source.set(two.endpoint())
    peers = client._peers
    await until(lambda: len(peers.everyone()) == 1, what="the peer is let go")
    assert {await ask(client) for _ in range(10)} == {"two"}


async def test_the_same_id_elsewhere_is_another_endpoint(replicas: Start, connect: Any) -> None:
    """Ray restarted the replica in place: same id, new address."""
    old, new = replicas("old", "new")
    source = FixedSource(old.endpoint(id="digits-r1-0"))
    client = await connect(source)
    assert await ask(client) == "old"
    old.kill()
    call = asyncio.create_task(ask(client))
    source.set(new.endpoint(id="digits-r1-0"))
    assert await call == "new"
