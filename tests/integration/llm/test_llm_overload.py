"""More than a replica can compute: who is let in is answered soon, everybody else is told at once when to come back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import openai

from serving.llm.engines import make_engine
from serving.llm.limits import Limits
from tests.support.llm_server import LlmServer

MODEL = Path(__file__).parents[3] / "examples" / "chat" / "model"
LONG = "word " * 400
MAX_WAIT_S = 1.0


async def first_token_s(client: openai.AsyncOpenAI, number: int) -> float:
    """Raises `RateLimitError`. Prompts share nothing, so that each is computed."""
    begun = time.perf_counter()
    stream = await client.completions.create(
        model="tiny", prompt=f"{number} {LONG}", max_tokens=40, stream=True, extra_body={"ignore_eos": True}
    )
    first = 0.0
    async for _ in stream:
        first = first or time.perf_counter() - begun
    return first


async def test_first_tokens_stay_in_bounds_at_more_than_the_capacity() -> None:
    engine = make_engine("openvino", MODEL, {"threads": 1, "max_running": 2})
    with LlmServer(engine, limits=Limits(max_wait_s=MAX_WAIT_S)) as server:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60) as client:
            numbers = iter(range(1_000_000))
            alone = [await first_token_s(client, next(numbers)) for _ in range(8)]  # it learns its pace
            waits, refused = [], []

            async def asks_again_and_again(until: float) -> None:
                while time.perf_counter() < until:
                    try:
                        waits.append(await first_token_s(client, next(numbers)))
                    except openai.RateLimitError as error:
                        refused.append(int(error.response.headers["retry-after"]))
                        await asyncio.sleep(0.3)  # a client that does not listen

            await asyncio.gather(*(asks_again_and_again(time.perf_counter() + 5) for _ in range(40)))
    assert refused, "the load was no load"
    assert min(refused) >= 1
    # The estimate may be wrong by what is begun and not finished; without it, forty would wait their turn.
    assert max(waits) < 3 * MAX_WAIT_S + 20 * max(alone), (sorted(waits)[-5:], alone, len(refused))
