"""An engine that says what it is told to: a fake of our own seam. Its tokens are the bytes of UTF-8."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from serving.errors import Conflict, InvalidArgument, MeshError, Unavailable
from serving.llm.engine import Capabilities, EngineLoad, GenerationRequest, Guide, TextCodec, TokenEvent

ALL_GUIDES = frozenset({"json_object", "json_schema", "regex", "grammar"})
END = 256  # the token that ends a chat's message


class ByteCodec:
    """Each byte is a token. A chat is its messages as JSON lines, so that a test can read what the template got."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        del special
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < END).decode("utf-8", "replace")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        if any(message["content"] == "refused by the template" for message in messages):
            raise InvalidArgument("the chat template refuses this chat")
        lines = [json.dumps({"tools": list(tools)})] if tools else []
        lines += [json.dumps({"options": dict(options)})] if options else []
        lines += [json.dumps(message) for message in messages]
        return "\n".join(lines) + ("\nassistant: " if add_generation_prompt else "")


class ScriptedGeneration:
    """Events of one request, `step_s` apart."""

    def __init__(self, engine: ScriptedEngine, request: GenerationRequest, text: str | MeshError) -> None:
        self.request = request
        self.cancelled_at: float | None = None
        self.ended = False
        self._engine = engine
        self._text = text
        self._events = self._run()
        self._cancelled = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self

    async def __anext__(self) -> TokenEvent:
        return await self._events.__anext__()

    def cancel(self) -> None:
        if self.cancelled_at is None and not self.ended:
            self.cancelled_at = time.monotonic()
            self._cancelled.set()

    async def _run(self) -> AsyncIterator[TokenEvent]:
        engine, sampling = self._engine, self.request.sampling
        if isinstance(self._text, MeshError):
            self.ended = True
            raise self._text
        tokens = list(self._text.encode("utf-8"))
        finish = "stop" if len(tokens) <= sampling.max_tokens else "length"
        tokens = tokens[: sampling.max_tokens]
        if tokens[: len(self.request.told)] != list(self.request.told):
            self.ended = True
            raise Conflict("the answer does not begin as it was told")
        tokens = tokens[len(self.request.told) :]
        size = engine.tokens_each_step
        pieces = [tokens[at : at + size] for at in range(0, len(tokens), size)] or [[]]
        for index, piece in enumerate(pieces):
            await asyncio.sleep(engine.step_s)
            if engine.fail_at is not None and index == engine.fail_at:
                self.ended = True
                raise engine.failing_with
            last = index == len(pieces) - 1
            self.ended = last
            yield TokenEvent(
                tuple(piece),
                logprobs=tuple(-token / 256 for token in piece) if sampling.logprobs else (),
                top_logprobs=tuple({token: -0.5, 65: -1.5} for token in piece) if sampling.top_logprobs else (),
                finish=finish if last else None,  # type: ignore[arg-type]
                cached=7 if index == 0 else -1,
            )


class ScriptedEngine:
    """`say` maps a request to its text, or to what is raised before any. Keeps all generations."""

    def __init__(
        self,
        say: Callable[[GenerationRequest], str | MeshError] = lambda _: "Hello there.",
        *,
        step_s: float = 0.0,
        tokens_each_step: int = 1,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.say = say
        self.step_s = step_s
        self.tokens_each_step = tokens_each_step
        self.fail_at: int | None = None
        self.failing_with: Exception = Unavailable("the engine ended")
        self.generations: list[ScriptedGeneration] = []
        self.failure = ""
        self.capabilities = capabilities or Capabilities(
            engine="scripted 1.0",
            context_tokens=4096,
            logprobs=True,
            top_logprobs=5,
            logit_bias=True,
            guides=ALL_GUIDES,  # type: ignore[arg-type]
            resumes=True,
        )
        self.codec: TextCodec = ByteCodec()

    async def start(self, tell: Callable[[str], None]) -> None:
        tell("ready")

    def check(self, guide: Guide) -> None:
        if guide.kind == "json_schema" and json.loads(guide.text).get("type") == "no such type":
            raise InvalidArgument("the schema has an unknown type 'no such type'")

    def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        if len(request.prompt) > 3500:
            raise InvalidArgument(f"a prompt of {len(request.prompt)} tokens does not fit into the cache (3500)")
        self.generations.append(ScriptedGeneration(self, request, self.say(request)))
        return self.generations[-1]

    def load(self) -> EngineLoad:
        return EngineLoad(running=sum(not (item.ended or item.cancelled_at) for item in self.generations))

    async def close(self) -> None:
        self.failure = "closed"

    @property
    def prompts(self) -> list[str]:
        """What was submitted, as text."""
        return [self.codec.decode(list(item.request.prompt)) for item in self.generations]
