"""The generations of one HTTP request, as one stream of what is new in its choices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from serving.errors import Internal, InvalidArgument
from serving.llm.choice import Choice, ChoiceDelta
from serving.llm.engine import Engine, Generation, GenerationRequest, TokenEvent
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import Place
from serving.openai.errors import InvalidRequest
from serving.openai.tokens_headers import token_headers
from serving.timeouts import cancel_and_wait


class Run:
    """Iterate `deltas` once, under `contextlib.aclosing`: when it ends, however it does, all generations have."""

    def __init__(
        self,
        engine: Engine,
        instruments: LlmInstruments,
        place: Place,
        parts: Sequence[tuple[GenerationRequest, Choice]],
        *,
        guide_field: str = "",
    ) -> None:
        """`guide_field` of the HTTP request holds the guide: one that only the engine found impossible is its fault."""
        self._guide_field = guide_field
        self._engine = engine
        self._clock = instruments.clock(batch=place.yields)
        self._place = place
        self._parts = parts
        self._cached: dict[int, int] = {}
        self._waiting = {id(request.prompt) for request, _ in parts}  # prompts without a first token

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for _, choice in self._parts)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt that was cached best: choices of one prompt find what the first one left."""
        return max(self._cached.values(), default=-1)

    def token_headers(self) -> dict[str, str]:
        """What the answer's head says of the prompts; once the first token is there."""
        prompts = {id(request.prompt): len(request.prompt) for request, _ in self._parts}  # choices share theirs
        return token_headers(sum(prompts.values()), self.cached_tokens)

    async def deltas(self) -> AsyncGenerator[ChoiceDelta, None]:
        """Raises what generations raise: the first error ends all of them."""
        generations: list[Generation] = []
        if all(choice.done for _, choice in self._parts):  # by another replica
            return
        try:
            for request, _ in self._parts:
                generations.append(self._engine.submit(request))
            async for index, event in _merged(generations, [choice for _, choice in self._parts]):
                yield self._push(index, event)
        except InvalidArgument as error:
            if not self._guide_field:
                raise
            raise InvalidRequest(
                f"`{self._guide_field}`: {error.message}", param=self._guide_field, error_code="invalid_schema"
            ) from error
        finally:
            for generation in generations:
                generation.cancel()
            told = sum(choice.told for _, choice in self._parts)
            self._clock.ended(self.completion_tokens - told, all(choice.done for _, choice in self._parts))

    def _begun(self, prompt: Sequence[int]) -> None:
        """Choices share their prompt: it is computed once. The only prompt also takes what was told of it before."""
        if id(prompt) in self._waiting:
            self._waiting.remove(id(prompt))
            self._place.begun(len(prompt) if self._waiting else None)

    def _push(self, index: int, event: TokenEvent) -> ChoiceDelta:
        choice = self._parts[index][1]
        if index not in self._cached:
            self._cached[index] = event.cached
            self._begun(self._parts[index][0].prompt)
            self._clock.first(len(self._parts[index][0].prompt), event.cached)
        delta = choice.push(event)
        if delta.finish:
            self._clock.finished(choice.tokens - choice.told, delta.finish)
        return delta


async def _merged(
    generations: Sequence[Generation], choices: Sequence[Choice]
) -> AsyncIterator[tuple[int, TokenEvent]]:
    """Events of all of them as they come, of each until its choice is done."""
    if len(generations) == 1:
        async for event in generations[0]:
            yield 0, event
            if choices[0].done:
                return
        raise Internal("the engine ended a generation without saying why")
    waiting = {asyncio.ensure_future(_next(item)): index for index, item in enumerate(generations)}
    try:
        while waiting:
            arrived, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(arrived, key=lambda item: waiting[item]):
                index = waiting.pop(task)
                yield index, task.result()
                if choices[index].done:
                    generations[index].cancel()
                else:
                    waiting[asyncio.ensure_future(_next(generations[index]))] = index
    finally:
        await cancel_and_wait(*waiting)


async def _next(generation: Generation) -> TokenEvent:
    try:
        return await generation.__anext__()
    except StopAsyncIteration:
        raise Internal("the engine ended a generation without saying why") from None
