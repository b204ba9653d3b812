"""One leader for a key; what its end means for those who follow."""

from __future__ import annotations

import asyncio

import pytest

from serving.cache.single_flight import LeaderCancelled, SingleFlight


async def test_followers_get_what_the_leader_shares() -> None:
    flights: SingleFlight[str] = SingleFlight()
    with flights.enter(b"k") as leader:
        followers = [flights.enter(b"k") for _ in range(5)]
        other = flights.enter(b"other")
        assert [turn.leads for turn in (leader, *followers, other)] == [True, *[False] * 5, True]
        waiting = [asyncio.ensure_future(turn.follow()) for turn in followers]
        leader.share("answer")
        other.share(None)
    assert await asyncio.gather(*waiting) == ["answer"] * 5
    assert len(flights) == 0
    assert flights.enter(b"k").leads


async def test_a_failed_leader_leaves_each_follower_to_itself() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader = flights.enter(b"k")
    follower = flights.enter(b"k")
    with pytest.raises(RuntimeError), leader:
        raise RuntimeError("the engine is gone")
    assert await follower.follow() is None
    assert len(flights) == 0


async def test_a_cancelled_leader_leaves_its_turn() -> None:
    flights: SingleFlight[str] = SingleFlight()

    async def lead() -> None:
        with flights.enter(b"k"):
            await asyncio.Event().wait()

    leader = asyncio.create_task(lead())
    await asyncio.sleep(0)
    follower = flights.enter(b"k")
    waiting = asyncio.ensure_future(follower.follow())
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(LeaderCancelled):
        await waiting
    assert flights.enter(b"k").leads


async def test_a_cancelled_follower_disturbs_nobody() -> None:
    flights: SingleFlight[str] = SingleFlight()
    with flights.enter(b"k") as leader:
        turns = [flights.enter(b"k") for _ in range(2)]
        waiting = [asyncio.ensure_future(turn.follow()) for turn in turns]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        leader.share("answer")
    assert await waiting[1] == "answer"
