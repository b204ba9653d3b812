"""`POST /v1/chat/completions`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from serving.llm.answers import ChatAnswer, ChatChunks
from serving.llm.choice import Choice, ChoiceDelta
from serving.llm.cost import add_usage_header, usage_comment
from serving.llm.engine import GenerationRequest, Guide, Sampling
from serving.llm.limits import Place
from serving.llm.resuming import Resuming, take_begun
from serving.llm.run import Run
from serving.llm.sampling import answer_budget, check_guide, check_kind, sampling_of, schema_guide, text_guide
from serving.llm.service import LlmService, new_call_id
from serving.llm.tool_calls import ToolCallParser
from serving.llm.tool_guide import call_schema, must_call
from serving.openai import sse
from serving.openai.chat import UNDONE_CHAT, ChatCompletionRequest, read_chat
from serving.openai.checked import ignored_fields
from serving.openai.errors import InvalidRequest
from serving.openai.service_tier import CLASS_HEADER, service_tier
from serving.openai.usage import Usage, usage_of
from serving.openai_http.service import named_ignored
from serving.wire import Wire


async def chat(service: LlmService, wire: Wire, body: dict[str, Any]) -> None:
    begun = take_begun(wire, body)
    request = read_chat(body)
    service.check_model(request.model)
    for name, value in named_ignored(ignored_fields(request, body, UNDONE_CHAT)).items():
        wire.add_header(name, value)
    tier = service_tier(request.service_tier, wire.header(CLASS_HEADER.encode()))
    with service.admission.enter(request.n or 1, tier) as place:
        asked = await prepare(service, request)
        one = bool(request.stream) and place.choices == 1
        resuming = Resuming(service, wire, begun, prompt=asked.prompt, sampling=asked.sampling, one_stream=one)
        place.wait_for(len(asked.prompt) + len(resuming.told))
        if request.stream:
            await _stream(service, wire, request, asked, place, resuming)
        else:
            await _whole(service, wire, request, asked, place)


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat as the engine gets it. `forced`: the answer is a call, which begins in the prompt."""

    prompt: list[int]
    sampling: Sampling
    functions: frozenset[str]
    forced: bool
    guide_field: str


async def prepare(service: LlmService, request: ChatCompletionRequest) -> Asked:
    """Raises `InvalidRequest` for what this model or its engine cannot do."""
    guide, guide_field = _guide(service, request)
    forced = guide_field == "tools"
    prompt = await service.prompts.chat(
        request.messages, tools=request.offered, options=request.chat_template_kwargs, begin_call=forced
    )
    capabilities = service.capabilities
    budget = answer_budget(capabilities, len(prompt), request.answer_tokens, request.answer_tokens_field)
    sampling = sampling_of(
        request,
        capabilities,
        max_tokens=budget,
        guide=guide,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
    )
    return Asked(prompt, sampling, frozenset(tool.function.name for tool in request.offered), forced, guide_field)


def _guide(service: LlmService, request: ChatCompletionRequest) -> tuple[Guide | None, str]:
    """What the answer must be, and the field that says so: `tools` where it must be a call."""
    text = text_guide(request, request.response_format, service.capabilities)
    tools = must_call(request.tools or (), request.tool_choice)
    if text is not None and request.offered:
        raise InvalidRequest(
            f"`{text[1]}` cannot be given with `tools`: a call would break it; set `tool_choice` to none",
            param=text[1],
            error_code="unsupported_parameter",
        )
    if tools:
        guide = schema_guide(call_schema(tools))
        check_kind(guide, "tool_choice", service.capabilities)
        check_guide(service.engine, guide, "tools")
        return guide, "tools"
    if text is None:
        return None, ""
    check_guide(service.engine, *text)
    return text


def chat_run(
    service: LlmService,
    request: ChatCompletionRequest,
    asked: Asked,
    place: Place,
    name: str,
    resuming: Resuming | None = None,
) -> Run:
    """A generation for each choice; seeds of their own, so that they differ."""
    told = resuming.told if resuming is not None else ()
    parts = []
    for index in range(place.choices):
        seed = None if asked.sampling.seed is None else asked.sampling.seed + index
        calls = ToolCallParser(asked.functions, inside=asked.forced) if asked.functions else None
        single = asked.forced or request.parallel_tool_calls is False
        choice = Choice(index, service.engine.codec, stops=request.stops, calls=calls, single=single)
        sampling = replace(asked.sampling, seed=seed)
        if resuming is not None:
            resuming.begin(choice)
        priority = place.priority(request.priority)
        whole = not (request.stream or choice.ends_early)
        made = GenerationRequest(f"{name}-{index}", asked.prompt, sampling, priority, told, place.yields, whole)
        parts.append((made, choice))
    return Run(service.engine, service.instruments, place, parts, guide_field=asked.guide_field)


def usage(asked: Asked, run: Run) -> Usage:
    return usage_of(len(asked.prompt), run.completion_tokens, run.cached_tokens)


async def _whole(service: LlmService, wire: Wire, request: ChatCompletionRequest, asked: Asked, place: Place) -> None:
    head = service.head("chatcmpl-", request.model, place.tier)
    answer = ChatAnswer(head, new_call_id, place.choices, logprobs=bool(request.logprobs))
    run = chat_run(service, request, asked, place, head.id)
    async with aclosing(run.deltas()) as deltas:
        async for new in deltas:
            answer.add(new)
    cost = usage(asked, run)
    add_usage_header(wire, cost)
    await wire.answer(200, answer.whole(cost), run.token_headers())


async def _stream(
    service: LlmService,
    wire: Wire,
    request: ChatCompletionRequest,
    asked: Asked,
    place: Place,
    resuming: Resuming,
) -> None:
    """The head of the answer waits for the first token: what fails before it still gets a status of its own."""
    head = resuming.head(service.head("chatcmpl-", request.model, place.tier))
    chunks = ChatChunks(head, new_call_id, logprobs=bool(request.logprobs), include_usage=request.include_usage)
    run = chat_run(service, request, asked, place, head.id, resuming)
    resuming.announce(wire)

    def encoded(new: ChoiceDelta) -> bytes:
        return b"".join(sse.event(chunk) for chunk in chunks.of(new))

    async with aclosing(run.deltas()) as deltas:
        async for new in deltas:
            data = encoded(new) + resuming.mark(head, new)
            if not wire.status:
                begin = () if resuming.resumed else chunks.begin(place.choices)
                data = b"".join(sse.event(chunk) for chunk in begin) + data
                await wire.begin_events(run.token_headers())
            await wire.send(data)
    if not wire.status:  # all but the end was told elsewhere
        await wire.begin_events()
    cost = usage(asked, run)
    last = b"".join(sse.event(chunk) for chunk in chunks.end(cost))
    await wire.end(last + usage_comment(wire, cost) + sse.DONE)
