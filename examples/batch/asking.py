"""The step of the pipeline that asks a model through the gateway."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp

_ATTEMPTS: Final = 5
_RETRIED: Final = (429, 500, 502, 503, 504)


async def ask(session: aiohttp.ClientSession, gateway: str, model: str, prompt: str) -> str:
    """The model's most likely answer. Refusals and faults of the server are tried again, ever later."""
    body = {"model": model, "temperature": 0, "max_tokens": 40, "messages": [{"role": "user", "content": prompt}]}
    for attempt in range(_ATTEMPTS):
        async with session.post(f"{gateway}/v1/chat/completions", json=body) as answer:
            if answer.status in _RETRIED and attempt < _ATTEMPTS - 1:
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            answer.raise_for_status()
            content: str = (await answer.json())["choices"][0]["message"]["content"]
            return content
    raise AssertionError("unreachable")


async def ask_all(gateway: str, model: str, prompts: list[str], *, at_once: int = 16) -> list[str]:
    """Answers in the order of the prompts."""
    room = asyncio.Semaphore(at_once)

    async def one(session: aiohttp.ClientSession, prompt: str) -> str:
        async with room:
            return await ask(session, gateway, model, prompt)

    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*(one(session, prompt) for prompt in prompts)))


class Asker:
    """For `map_batches`: adds the column `answer`."""

    def __init__(self, gateway: str, model: str) -> None:
        self._gateway = gateway
        self._model = model

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        prompts = [str(prompt) for prompt in batch["prompt"]]
        return {**batch, "answer": asyncio.run(ask_all(self._gateway, self._model, prompts))}
