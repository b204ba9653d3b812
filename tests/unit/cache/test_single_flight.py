"""One leader for a key; what its end means for those who follow."""

from __future__ import annotations

import asyncio

import pytest

from serving.cache.single_flight import LeaderGone, SingleFlight


async def test_followers_get_what_the_leader_shares() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader = flights.enter(b"k")
    followers = [flights.enter(b"k") for _ in range(5)]
    other = flights.enter(b"other")
    assert [turn.leads for turn in (leader, *followers, other)] == [True, *[False] * 5, True]
    waiting = [asyncio.ensure_future(turn.follow()) for turn in followers]
    leader.share("answer")
    leader.leave()  # says nothing any more
    other.share(None)
    assert await asyncio.gather(*waiting) == ["answer"] * 5
    assert len(flights) == 0
    assert flights.enter(b"k").leads


async def test_what_must_not_be_shared_leaves_each_follower_to_itself() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader, follower = flights.enter(b"k"), flights.enter(b"k")
    leader.share(None)
    assert await follower.follow() is None
    assert len(flights) == 0


async def test_a_leader_that_leaves_hands_its_turn_on() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader, follower = flights.enter(b"k"), flights.enter(b"k")
    waiting = asyncio.ensure_future(follower.follow())
    await asyncio.sleep(0)
    leader.leave()
    with pytest.raises(LeaderGone):
        await waiting
    again = flights.enter(b"k")
    assert again.leads
    leader.leave()  # of another flight: the new one goes on
    assert not flights.enter(b"k").leads


async def test_followers_know_whether_the_leader_generates() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader, follower = flights.enter(b"k"), flights.enter(b"k")
    looking = asyncio.ensure_future(follower.ended_by_lookup())
    await asyncio.sleep(0)
    assert not looking.done()
    leader.generates()
    assert not await looking
    leader.share("answer")
    assert await follower.ended_by_lookup()

    quick, second = flights.enter(b"k"), flights.enter(b"k")
    quick.share("found")
    assert await second.ended_by_lookup()
    assert await second.follow() == "found"


async def test_a_cancelled_follower_disturbs_nobody() -> None:
    flights: SingleFlight[str] = SingleFlight()
    leader = flights.enter(b"k")
    turns = [flights.enter(b"k") for _ in range(2)]
    waiting = [asyncio.ensure_future(turn.follow()) for turn in turns]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    leader.share("answer")
    assert await waiting[1] == "answer"
