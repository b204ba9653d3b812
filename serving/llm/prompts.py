"""From texts and chats to tokens; long ones on a thread of their own, so that streams beside them go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from serving.errors import InvalidArgument
from serving.llm.engine import Engine, TextCodec, TextTooLong
from serving.llm.tool_calls import OPEN
from serving.openai.errors import InvalidRequest
from serving.openai.messages import Message, for_template
from serving.openai.tools import Tool

T = TypeVar("T")
_LONG: Final = 4_000  # characters; about a millisecond
_ANY_CALL: Final[Sequence[Mapping[str, Any]]] = (
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}],
    },
)


class Prompts:
    """Asks the engine's codec. `close` ends the thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-tokenizer")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        begin_call: bool = False,
    ) -> list[int]:
        """`begin_call`: the prompt ends with the opening tag of a call, so that the answer is one."""
        if not self._engine.capabilities.chat:
            raise InvalidRequest(
                "this model has no chat template; use /v1/completions", param="messages", error_code="unsupported_model"
            )
        rendered = for_template(messages)
        offered = [tool.model_dump(exclude_none=True) for tool in tools]
        codec = self._engine.codec

        def work() -> list[int]:
            text = codec.render(
                rendered, tools=offered, add_generation_prompt=add_generation_prompt, options=options or None
            )
            return codec.encode(text + (_call_begins(codec) if begin_call else ""))

        size = sum(len(message["content"]) for message in rendered) + sum(len(str(tool)) for tool in offered)
        return _some(await self._encoded(size, work, "messages"), "messages")

    async def text(self, text: str, *, special: bool = True) -> list[int]:
        return await self._encoded(len(text), lambda: self._engine.codec.encode(text, special=special), "prompt")

    async def prompt(self, prompt: str | list[int]) -> list[int]:
        """Of a completion: a text, or tokens as they are."""
        return _some(await self.text(prompt) if isinstance(prompt, str) else prompt, "prompt")

    async def _encoded(self, characters: int, work: Callable[[], list[int]], param: str) -> list[int]:
        try:
            return await self.run(characters, work)
        except TextTooLong as error:
            context = self._engine.capabilities.context_tokens
            raise InvalidRequest(
                f"{error.message}; its context is {context} tokens", param=param, error_code="context_length_exceeded"
            ) from error

    async def run(self, characters: int, work: Callable[[], T]) -> T:
        if characters < _LONG:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _call_begins(codec: TextCodec) -> str:
    """The opening tag of a call, with the space that this model's template writes behind it."""
    try:
        text = codec.render(_ANY_CALL, add_generation_prompt=False)
    except InvalidArgument:  # a template that knows no calls
        return OPEN
    behind = text.rpartition(OPEN)[2].partition("{")[0] if OPEN in text else ""
    return OPEN + (behind if not behind.strip() else "")


def _some(tokens: list[int], param: str) -> list[int]:
    if not tokens:
        raise InvalidRequest(f"`{param}` has no tokens", param=param, error_code="invalid_value")
    return tokens
