"""Load for servers that speak OpenAI's HTTP protocol: closed loop, whole answers and streams."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

QUESTION: Final = "What is the capital of Japan?"
STORY: Final = "Tell a story about a red fox."


@dataclass(frozen=True, slots=True)
class Answers:
    """Of whole answers. Times in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Of streams that ran beside each other. Times in milliseconds, medians over streams."""

    tokens_per_s: float
    first_token_ms: float
    each_token_ms: float


def run_answers(url: str, model: str, *, clients: int, requests: int) -> Answers:
    """`requests` in all, each of one token, after a warm-up of a fifth."""
    body = _body(model, QUESTION, tokens=1, stream=False)

    async def ask(session: aiohttp.ClientSession) -> float:
        began = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
            text = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{url} answered {answer.status}: {text[:300]!r}")
        return time.perf_counter() - began

    async def all_of_them() -> tuple[list[float], float]:
        async with _session() as session:

            async def client(count: int) -> list[float]:
                return [await ask(session) for _ in range(count)]

            each = requests // clients
            await asyncio.gather(*(client(max(1, each // 5)) for _ in range(clients)))
            began = time.perf_counter()
            found = await asyncio.gather(*(client(each) for _ in range(clients)))
            return [one for times in found for one in times], time.perf_counter() - began

    times, took = asyncio.run(all_of_them())
    times.sort()
    return Answers(len(times) / took, 1e3 * statistics.median(times), 1e3 * times[int(len(times) * 0.99)])


def run_streams(url: str, model: str, *, streams: int, each: int, tokens: int) -> Streams:
    """`streams` beside each other, `each` after one another, of exactly `tokens` tokens."""
    body = _body(model, STORY, tokens=tokens, stream=True)

    async def stream(session: aiohttp.ClientSession) -> tuple[float, float]:
        began, first = time.perf_counter(), 0.0
        async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
            async for part in answer.content.iter_any():
                if not first and b'"content":"' in part.replace(b'"content":""', b""):
                    first = time.perf_counter() - began
            if answer.status != 200 or not first:
                raise RuntimeError(f"{url} answered {answer.status} without a text")
        return first, (time.perf_counter() - began - first) / (tokens - 1)

    async def all_of_them() -> tuple[list[tuple[float, float]], float]:
        async with _session() as session:

            async def client() -> list[tuple[float, float]]:
                return [await stream(session) for _ in range(each)]

            began = time.perf_counter()
            found = await asyncio.gather(*(client() for _ in range(streams)))
            return [one for times in found for one in times], time.perf_counter() - began

    times, took = asyncio.run(all_of_them())
    return Streams(
        len(times) * tokens / took,
        1e3 * statistics.median(first for first, _ in times),
        1e3 * statistics.median(rest for _, rest in times),
    )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"content-type": "application/json", "authorization": "Bearer none"},
        timeout=aiohttp.ClientTimeout(total=300),
    )


def _body(model: str, question: str, *, tokens: int, stream: bool) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }
    return json.dumps(body).encode()
