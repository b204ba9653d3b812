"""What tests ask of a gateway with a semantic cache, and how they wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai

from tests.integration.gateway.speaker import Speaker
from tests.support.llm_serving import GatewayProcess

FRANCE = "What is the capital of France?"
TELL_ME = "can you tell me the capital of France"
CONTENT = "weights 1"


class Edge:
    """What one test asks: a model of its own, behind the shared gateway and cache."""

    def __init__(self, gateway: GatewayProcess, model: str, speaker: Speaker) -> None:
        self.model = model
        self.speaker = speaker
        self.url = gateway.url
        self.http = httpx.AsyncClient(base_url=gateway.url, timeout=30)
        self.openai = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30)

    async def ask(self, text: str = FRANCE, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], **more}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def said(self, text: str = FRANCE, headers: dict[str, str] | None = None, **more: Any) -> tuple[str, str]:
        """What the cache said (empty: it was not asked), and the answer."""
        answer = await self.ask(text, headers, **more)
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-mesh-cache", ""), content(answer)

    async def stream(self, text: str = FRANCE, **more: Any) -> tuple[str, list[Any]]:
        """Through OpenAI's client: the text, and the chunks."""
        made = await self.openai.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": text}], stream=True, **more
        )
        chunks = [chunk async for chunk in made]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks

    async def close(self) -> None:
        await self.http.aclose()
        await self.openai.close()


def content(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


async def knows(edge: Edge) -> bool:
    """Answers of its own tenant are removed only by a gateway that knows the model, and by a cache."""
    return (await edge.http.delete("/v1/cache", params={"model": edge.model})).status_code == 200


async def until(look: Callable[[], Any], *, what: str, timeout_s: float = 120) -> None:
    end = asyncio.get_running_loop().time() + timeout_s
    while not await look():
        assert asyncio.get_running_loop().time() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


async def stored(edge: Edge, text: str = FRANCE, **more: Any) -> None:
    """Answers are put after their clients have them."""
    await until(lambda: is_stored(edge, text, more), what="the answer is stored")


async def is_stored(edge: Edge, text: str, more: dict[str, Any]) -> bool:
    answer = await edge.ask(text, {"cache-control": "only-if-cached"}, **more)
    assert answer.status_code in (200, 504), answer.text
    return answer.status_code == 200


async def says(edge: Edge, text: str) -> bool:
    return await edge.said() == ("exact", text)


async def asked(edge: Edge, count: int) -> bool:
    return edge.speaker.answers >= count
