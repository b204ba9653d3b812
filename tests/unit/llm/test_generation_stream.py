"""One generation on the event loop's side."""

from __future__ import annotations

import asyncio

import pytest

from serving.errors import Internal
from serving.llm.engine import GenerationRequest, Sampling, TokenEvent
from serving.llm.generation_stream import GenerationStream


def stream(cancelled: list[GenerationStream] | None = None) -> GenerationStream:
    return GenerationStream(
        GenerationRequest("a", [1], Sampling(4)), (cancelled if cancelled is not None else []).append
    )


async def test_events_come_in_order_and_end_with_the_last() -> None:
    one = stream()
    reader = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.put(TokenEvent((1,)))
    one.put(TokenEvent((2,), finish="stop"))
    one.put(TokenEvent((3,)))  # nothing counts after the end
    one.fail(Internal("late"))
    assert await reader == TokenEvent((1,))
    assert [event.tokens async for event in one] == [(2,)]
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
