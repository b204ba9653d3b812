"""A journal in Redis: what is sent twice, fenced, refused, lost, bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis as client_library

from serving.broker.redis_log import scripts
from serving.broker.redis_log.shelf import RedisPlace, RedisShelf
from serving.control.clock import ManualClock
from serving.errors import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from tests.support.redis_server import LoneRedis, shared_redis
from tests.support.redis_shards import RedisShard
from tests.support.waiting import eventually_async

TTL_S = 40.0


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[RedisShard]:
    made = RedisShard(tmp_path / "j1", ManualClock(), result_ttl_s=TTL_S, redis=shared_redis().settings(takeover_s=1.0))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def unheard(tmp_path: Path) -> AsyncIterator[RedisShard]:
    """It does not renew while a test lasts."""
    redis = shared_redis().settings(takeover_s=600.0)
    made = RedisShard(tmp_path / "j1", ManualClock(), result_ttl_s=TTL_S, redis=redis)
    await made.open()
    yield made
    await made.close()


def lost_answers(
    held: RedisShard, monkeypatch: pytest.MonkeyPatch, *, times: int, done: bool, then: Callable[[], Any] = bool
) -> None:
    """So many commits are sent, and done or not, before the connection breaks; `then` comes before the next one."""
    log, left = held.log, [None] * times
    send = log._send

    def broken(call: Any) -> bool:
        if left:
            if done:
                send(call)
            left.pop()
            then()
            raise client_library.ConnectionError("gone")
        return send(call)

    monkeypatch.setattr(log, "_send", broken)


@pytest.mark.parametrize("done", [True, False])
async def test_a_commit_whose_answer_was_lost_is_done_once(
    held: RedisShard, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    lost_answers(held, monkeypatch, times=2, done=done)
    number = await held.submit(key="k")
    item = await held.start()
    assert item is not None
    assert await held.done(number, item.attempt)
    assert shared_redis().client.xlen(held.keys.items) == 1
    found = await held.reborn(Path("j2"))
    assert (await found.clients.get(number))[1] == b"result"
    assert found.shard.journal.items == 1
    await found.close()


@pytest.mark.parametrize("done", [True, False])
async def test_a_server_that_stays_away_ends_the_journal_and_nothing_is_confirmed(
    held: RedisShard, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """Whether it was kept is not known: whoever takes it next knows, and a repeated submit finds it."""
    lost_answers(held, monkeypatch, times=1000, done=done)
    with pytest.raises(Unavailable, match="submit it again"):
        await held.submit(key="k")
    assert isinstance(held.shard.journal.failure, Unavailable)
    with pytest.raises(Unavailable):
        await held.submit(key="other")
    found = await held.reborn(Path("j2"))
    assert await found.clients.known([("", "k"), ("", "other")]) == ({("", "k"): 1} if done else {})
    assert await found.submit(key="k") == 1
    await found.close()


# The server's options that make it refuse writes.
REFUSALS = [("maxmemory", "1"), ("min-replicas-to-write", "1")]


@pytest.mark.parametrize(("option", "value"), REFUSALS)
async def test_a_refusal_of_what_may_be_kept_is_not_taken_for_an_answer(
    tmp_path: Path, own: LoneRedis, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings(takeover_s=3.0))
    await held.open()
    lost_answers(held, monkeypatch, times=1, done=True, then=lambda: own.client.config_set(option, value))
    with pytest.raises(Unavailable, match="is kept is not known"):
        await held.submit(key="k")
    assert isinstance(held.shard.journal.failure, Unavailable)
    own.client.config_set(option, "0")
    with pytest.raises(Unavailable):
        await held.submit(key="other")
    await held.close()
    found = await held.again()
    assert await found.clients.known([("", "k"), ("", "other")]) == {("", "k"): 1}
    assert await found.submit() == 2
    await found.close()


@pytest.mark.parametrize(("option", "value"), REFUSALS)
async def test_what_may_be_kept_is_sent_again_until_the_server_takes_it(
    tmp_path: Path, own: LoneRedis, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings(takeover_s=600.0))
    await held.open()
    lost_answers(held, monkeypatch, times=1, done=True, then=lambda: own.client.config_set(option, value))
    send, refused = held.log._send, []

    def seen(call: Any) -> bool:
        try:
            return send(call)
        except client_library.ResponseError as error:
            refused.append(error)
            own.client.config_set(option, "0")
            raise

    monkeypatch.setattr(held.log, "_send", seen)
    assert [await held.submit(key="k"), await held.submit()] == [1, 2]
    assert len(refused) == 1
    await held.close()
    found = await held.again()
    assert found.shard.journal.items == 2
    await found.close()


@pytest.mark.parametrize(("option", "value"), REFUSALS)
async def test_a_refusal_of_what_cannot_be_kept_leaves_the_journal_open(
    tmp_path: Path, own: LoneRedis, option: str, value: str
) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings())
    await held.open()
    own.client.config_set(option, value)
    with pytest.raises(MeshError):
        await held.submit()
    assert held.shard.journal.failure is None
    own.client.config_set(option, "0")
    await held.submit()
    assert own.client.hlen(held.keys.heads) == held.shard.journal.items == 1
    await held.close()


async def test_a_commit_that_the_server_knows_before_it_was_sent_is_not_confirmed(held: RedisShard) -> None:
    shared_redis().client.hset(held.keys.meta, "group", "1")
    with pytest.raises(Unavailable, match="does not know"):
        await held.submit()
    assert held.shard.journal.failure is not None


async def test_an_old_broker_changes_nothing_any_more(held: RedisShard) -> None:
    number = await held.submit()
    item = await held.start()
    assert item is not None
    found = await held.reborn(Path("j2"))
    assert not await held.done(number, item.attempt, b"of the old one")
    with pytest.raises(Unavailable, match="has another broker now"):
        await held.submit()
    assert await found.done(number, item.attempt, b"of the new one")
    assert (await found.clients.get(number))[1] == b"of the new one"
    assert shared_redis().client.hlen(held.keys.heads) == 1
    await found.close()


async def test_an_epoch_that_a_server_gives_twice_is_not_both_s(unheard: RedisShard) -> None:
    """It came back without the take, which was in its last second or not at the replica that follows it."""
    client: Any = shared_redis().client
    client.hincrby(unheard.keys.meta, "epoch", -1)
    found = await unheard.reborn(Path("j2"))
    assert int(client.hget(unheard.keys.meta, "epoch")) == unheard.log.turn.epoch
    assert await found.submit(b"of the new one") == 1
    with pytest.raises(Unavailable, match="has another broker now"):
        await unheard.submit(b"of the old one")
    await found.submit()
    await asyncio.to_thread(unheard.place.release, remove=True)
    assert client.exists(unheard.keys.owner), "it is the new one's"
    assert client.hlen(unheard.keys.heads) == found.shard.journal.items == 2
    await found.close()


async def test_an_idle_broker_hears_of_a_take_of_the_same_epoch(unheard: RedisShard) -> None:
    client: Any = shared_redis().client
    client.hincrby(unheard.keys.meta, "epoch", -1)
    found = await unheard.reborn(Path("j2"))
    assert isinstance(unheard.shelf, RedisShelf)
    assert isinstance(unheard.place, RedisPlace)
    client.delete(unheard.keys.owner)
    await asyncio.to_thread(unheard.place.renew)
    assert client.get(unheard.keys.owner) != unheard.shelf.me.encode()
    assert isinstance(unheard.shard.journal.failure, Unavailable)
    assert found.shard.journal.failure is None
    await found.close()


async def test_a_renewal_that_was_on_its_way_does_not_take_a_released_journal_again(
    held: RedisShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, place = held.shelf, held.place
    assert isinstance(shelf, RedisShelf)
    assert isinstance(place, RedisPlace)
    run, answers = shelf.run, []

    def slow(script: str, *given: Any) -> int:
        if script == scripts.RENEW and not answers:
            answers.append(scripts.ABSENT)
            place.release()
            answers[0] = run(script, *given)
            return answers[0]
        return run(script, *given)

    await held.shard.close()
    monkeypatch.setattr(shelf, "run", slow)
    await asyncio.to_thread(place.renew)
    assert answers == [scripts.GONE]
    assert not shared_redis().client.exists(held.keys.owner)


async def test_an_idle_broker_hears_that_another_one_has_its_journal(held: RedisShard) -> None:
    found = await held.reborn(Path("j2"))
    await eventually_async(lambda: held.shard.journal.failure is not None, what="it gives the journal up")
    assert isinstance(held.shard.journal.failure, Unavailable)
    assert await found.submit() == 1
    await found.close()


async def test_what_is_kept_in_redis_is_what_is_kept(held: RedisShard) -> None:
    """One entry for an item, however often it changed; nothing of one that is forgotten."""
    client: Any = shared_redis().client
    for _ in range(5):
        number = await held.submit(b"x" * 1000)
        item = await held.start()
        assert item is not None
        held.shard.again(number, 1, "full", lambda _: None, untouched=True)
        await held.settle()
        item = await held.start()
        assert item is not None
        assert await held.done(number, item.attempt)
    await held.submit()
    keys = held.keys
    assert (client.xlen(keys.items), client.hlen(keys.heads)) == (6, 6)
    assert (client.hlen(keys.requests), client.hlen(keys.results)) == (1, 5)
    await held.clients.cancel(6)
    await held.tick(TTL_S + 2)
    assert held.shard.journal.items == 0
    assert not client.exists(keys.items) or client.xlen(keys.items) == 0
    assert not client.exists(keys.heads, keys.requests, keys.results)
    found = await held.reborn(Path("j2"))
    assert await found.submit() == 7, "numbers are never given twice"
    await found.close()


async def test_large_requests_and_results_come_back_whole(tmp_path: Path) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock())
    await held.open()
    body, result = os.urandom(10 << 20), os.urandom(9 << 20)
    number, waits = await held.submit(body), await held.submit(body)
    item = await held.start()
    assert item is not None
    assert await held.done(number, item.attempt, result)
    found = await held.reborn(Path("j2"))
    assert (await found.clients.get(number))[1] == result
    given: list[bytes | None] = []
    running = found.shard.take("it", 2, "r", "p")
    assert running is not None
    assert running.item.number == waits
    found.shard.start([running], lambda _, request: given.append(request))
    await found.settle()
    assert given == [body]
    await found.close()
    await held.close()


async def test_a_full_server_refuses_and_the_journal_goes_on(tmp_path: Path, own: LoneRedis) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings())
    await held.open()
    number = await held.submit()
    item = await held.start()
    assert item is not None
    own.client.config_set("maxmemory", own.client.info("memory")["used_memory"] + 1)  # type: ignore[index,operator]
    wanted = [(held.item(size_bytes=100_000), bytes(100_000)) for _ in range(50)]
    refused = [answer for answer in await held.clients.submit(wanted) if isinstance(answer, MeshError)]
    assert {type(error) for error in refused} == {ResourceExhausted}
    assert "memory of the Redis server" in refused[0].message
    assert not await held.done(number, item.attempt, bytes(100_000)), "it is not confirmed"
    await held.clients.cancel(await held.submit(b""))  # what has no body has room, so that what is there can end
    assert held.shard.journal.failure is None
    own.client.config_set("maxmemory", 0)
    assert await held.done(number, item.attempt, b"said again")
    assert (await held.clients.get(number))[1] == b"said again"
    await held.close()


async def test_a_full_server_lets_a_journal_be_kept_and_taken(tmp_path: Path, own: LoneRedis) -> None:
    """Else its broker would give it up after `takeover`, and what has ended could not be forgotten."""
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings())
    await held.open()
    own.client.config_set("maxmemory", 1)
    own.client.delete(held.keys.owner)
    await asyncio.to_thread(held.place.renew)
    left_ms: Any = own.client.pttl(held.keys.owner)
    assert left_ms > 0
    own.client.delete(held.keys.owner)
    assert held.settings.redis is not None
    other = RedisShelf(held.settings.redis, tmp_path / "other", "other", "full")
    other.prepare()
    with pytest.raises(ResourceExhausted):
        other.place("j2").take(begin=True)
    assert other.place("j1").take()
    own.client.config_set("maxmemory", 0)
    other.close()
    await held.close()


async def test_a_server_that_comes_back_older_is_noticed(tmp_path: Path, own: LoneRedis) -> None:
    held = RedisShard(tmp_path / "j1", ManualClock(), redis=own.settings())
    await held.open()
    await held.submit()
    own.client.flushall()
    with pytest.raises(DataLoss, match="came back older"):
        await held.submit()
    assert isinstance(held.shard.journal.failure, DataLoss)
    await held.close()


async def test_a_damaged_journal_is_left_as_it_is(held: RedisShard) -> None:
    client: Any = shared_redis().client
    await held.submit()
    client.xadd(held.keys.items, {"i": b"rubbish"}, id="9-1")
    with pytest.raises(DataLoss, match="damaged"):
        await held.reborn(Path("j2"))
    assert client.xlen(held.keys.items) == 2


async def test_a_journal_of_another_release_is_left_to_it(held: RedisShard) -> None:
    shared_redis().client.hset(held.keys.meta, "version", "99")
    with pytest.raises(FailedPrecondition, match="has version 99"):
        await held.reborn(Path("j2"))
