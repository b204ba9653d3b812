"""One generation on the event loop's side."""

from __future__ import annotations

import asyncio

import pytest

from serving.errors import Internal
from serving.llm.engine import GenerationRequest, Sampling, TokenEvent
from serving.llm.generation_stream import GenerationStream, Pace, Paces


def stream(cancelled: list[GenerationStream] | None = None, pace: Pace | None = None) -> GenerationStream:
    request = GenerationRequest("a", [1], Sampling(4))
    return GenerationStream(request, (cancelled if cancelled is not None else []).append, pace)


async def test_events_come_in_order_and_end_with_the_last() -> None:
    one = stream()
    reader = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.put(TokenEvent((1,)))
    assert await reader == TokenEvent((1,))
    one.put(TokenEvent((2,), finish="stop"))
    one.put(TokenEvent((3,)))  # nothing counts after the end
    one.fail(Internal("late"))
    assert [event.tokens async for event in one] == [(2,)]
    assert [event async for event in one] == []


async def test_what_was_not_taken_is_one_event() -> None:
    one = stream()
    one.put(TokenEvent((1,), (-0.1,), ({1: -0.1},), cached=3))
    one.put(TokenEvent((2, 3), (-0.2, -0.3), ({2: -0.2}, {}), cached=-1))
    one.put(TokenEvent((), finish="length"))
    whole = TokenEvent((1, 2, 3), (-0.1, -0.2, -0.3), ({1: -0.1}, {2: -0.2}, {}), "length", 3)
    assert [event async for event in one] == [whole]


async def test_a_paced_stream_gives_its_first_token_at_once_and_then_what_an_interval_brought() -> None:
    one = stream(pace=Pace(3600))
    one.put(TokenEvent((1,)))
    assert (await anext(one)).tokens == (1,)
    reader = asyncio.create_task(anext(one))
    for token in (2, 3):
        one.put(TokenEvent((token,)))
        await asyncio.sleep(0)
    assert not reader.done()
    one.put(TokenEvent((4,), finish="stop"))  # an end does not wait
    assert (await reader).tokens == (2, 3, 4)


async def test_streams_of_one_pace_wake_together() -> None:
    pace = Pace(3600)
    streams = [stream(pace=pace) for _ in range(3)]
    for one in streams:
        one.put(TokenEvent((1,)))
        assert (await anext(one)).tokens == (1,)
    readers = [asyncio.create_task(anext(one)) for one in streams]
    for one in streams:
        one.put(TokenEvent((2,)))
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    pace._wake()
    await asyncio.sleep(0)
    assert all(reader.done() for reader in readers)


async def test_a_stream_that_is_slower_than_its_pace_never_waits() -> None:
    pace = Pace(1e-6)
    one = stream(pace=pace)
    for token in (1, 2, 3):
        await asyncio.sleep(0.001)
        one.put(TokenEvent((token,)))
        reader = asyncio.create_task(anext(one))
        await asyncio.sleep(0)
        assert reader.done()
        assert reader.result().tokens == (token,)


async def test_a_wake_up_for_what_was_taken_before_gives_nothing() -> None:
    one = stream(pace=Pace(0.05))
    one.put(TokenEvent((1,)))
    await anext(one)
    one.put(TokenEvent((2,)))
    reader = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(StopAsyncIteration):
        await reader
    await asyncio.sleep(0.1)  # the pace's wake-up comes to a stream that has ended
    assert [event async for event in one] == []


async def test_an_error_comes_after_the_events_that_were_there() -> None:
    one = stream()
    one.put(TokenEvent((1,)))
    one.fail(Internal("broken"))
    assert (await anext(one)).tokens == (1,)
    for _ in range(2):
        with pytest.raises(Internal, match="broken"):
            await anext(one)


async def test_cancelling_tells_the_engine_once_and_wakes_the_reader() -> None:
    told: list[GenerationStream] = []
    one = stream(told)
    one.put(TokenEvent((1,)))
    one.cancel()
    one.cancel()
    assert told == [one]
    assert [event async for event in one] == []
    waiting = stream(told)
    reader = asyncio.create_task(anext(waiting, None))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await reader is None


async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    one = stream()
    reader = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.put(TokenEvent((1,)))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await anext(one)).tokens == (1,)


async def test_an_answer_that_nobody_reads_before_its_end_wakes_at_its_first_token_and_at_its_end() -> None:
    paces = Paces()
    request = GenerationRequest("a", [1], Sampling(8), whole=True)
    one = GenerationStream(request, print, paces.of(request))
    one.put(TokenEvent((1,), cached=2))
    assert (await anext(one)).cached == 2
    reader = asyncio.create_task(anext(one))
    for token in (2, 3):
        one.put(TokenEvent((token,)))
        await asyncio.sleep(0)
    assert not reader.done()
    one.put(TokenEvent((4,), finish="length"))
    assert await reader == TokenEvent((2, 3, 4), finish="length")


async def test_long_answers_are_read_now_and_then_also_where_nobody_waits_for_their_parts() -> None:
    paces = Paces()
    whole = GenerationRequest("a", [1], Sampling(8), whole=True)
    assert paces.of(whole).interval_s > paces.of(GenerationRequest("b", [1], Sampling(8))).interval_s
    one = GenerationStream(whole, print, paces.of(whole))
    one.put(TokenEvent((1,)))
    await anext(one)
    one.put(TokenEvent((2,)))
    assert (await asyncio.wait_for(anext(one), 60)).tokens == (2,)
