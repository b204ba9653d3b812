"""`POST /v1/completions`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

from serving.llm.choice import Choice
from serving.llm.completion_answers import CompletionAnswer
from serving.llm.cost import add_usage_header, usage_comment
from serving.llm.engine import GenerationRequest, Guide, Sampling
from serving.llm.limits import Place
from serving.llm.resuming import Resuming, take_begun
from serving.llm.run import Run
from serving.llm.sampling import answer_budget, check_guide, sampling_of, text_guide
from serving.llm.service import LlmService
from serving.openai import sse
from serving.openai.checked import ignored_fields
from serving.openai.completions import DEFAULT_MAX_TOKENS, UNDONE_COMPLETIONS, CompletionRequest, read_completion
from serving.openai.service_tier import CLASS_HEADER, service_tier
from serving.openai.usage import usage_of
from serving.openai_http.service import named_ignored
from serving.wire import Wire


async def completions(service: LlmService, wire: Wire, body: dict[str, Any]) -> None:
    begun = take_begun(wire, body)
    request = read_completion(body)
    service.check_model(request.model)
    for name, value in named_ignored(ignored_fields(request, body, UNDONE_COMPLETIONS)).items():
        wire.add_header(name, value)
    given = request.prompts
    tier = service_tier(request.service_tier, wire.header(CLASS_HEADER.encode()))
    with service.admission.enter(len(given) * (request.n or 1), tier) as place:
        prompts = [await service.prompts.prompt(prompt) for prompt in given]
        samplings = [_sampling(service, request, len(prompt)) for prompt in prompts]
        one = bool(request.stream) and place.choices == 1
        resuming = Resuming(service, wire, begun, prompt=prompts[0], sampling=samplings[0], one_stream=one)
        place.wait_for(sum(len(prompt) for prompt in prompts) + len(resuming.told))
        await _answer(service, wire, request, prompts, samplings, place, resuming)


def _sampling(service: LlmService, request: CompletionRequest, prompt: int) -> Sampling:
    capabilities = service.capabilities
    asked = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    guide: Guide | None = None
    guided = text_guide(request, request.response_format, capabilities)
    if guided is not None:
        check_guide(service.engine, *guided)
        guide = guided[0]
    return sampling_of(
        request,
        capabilities,
        max_tokens=answer_budget(capabilities, prompt, asked, "prompt" if request.max_tokens is None else "max_tokens"),
        guide=guide,
        logprobs=request.logprobs is not None,
        top_logprobs=request.logprobs or 0,
    )


async def _answer(
    service: LlmService,
    wire: Wire,
    request: CompletionRequest,
    prompts: list[list[int]],
    samplings: list[Sampling],
    place: Place,
    resuming: Resuming,
) -> None:
    """As a stream, its head waits for the first token: what fails before it still gets a status of its own."""
    head = resuming.head(service.head("cmpl-", request.model))
    answer = CompletionAnswer(
        head, _echoes(service, request, prompts), logprobs=request.logprobs, include_usage=request.include_usage
    )
    run = _run(service, request, prompts, samplings, place, head.id, resuming)
    resuming.announce(wire)
    async with aclosing(run.deltas()) as deltas:
        async for new in deltas:
            if not request.stream:
                answer.add(new)
                continue
            data = b"".join(sse.event(piece) for piece in answer.of(new)) + resuming.mark(head, new)
            if not wire.status:
                begin = () if resuming.resumed else answer.begin()
                data = b"".join(sse.event(piece) for piece in begin) + data
                await wire.begin_events(run.token_headers())
            await wire.send(data)
    usage = usage_of(sum(len(prompt) for prompt in prompts), run.completion_tokens, run.cached_tokens)
    if request.stream:
        if not wire.status:  # all but the end was told elsewhere
            await wire.begin_events()
        last = b"".join(sse.event(piece) for piece in answer.end(usage))
        await wire.end(last + usage_comment(wire, usage) + sse.DONE)
    else:
        add_usage_header(wire, usage)
        await wire.answer(200, answer.whole(usage), run.token_headers())


def _run(
    service: LlmService,
    request: CompletionRequest,
    prompts: list[list[int]],
    samplings: list[Sampling],
    place: Place,
    name: str,
    resuming: Resuming,
) -> Run:
    """Choices of the first prompt, then those of the second, and so on; each with a seed of its own."""
    parts = []
    each = request.n or 1
    for index in range(len(prompts) * each):
        sampling = samplings[index // each]
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index % each)
        choice = Choice(index, service.engine.codec, stops=request.stops)
        resuming.begin(choice)
        prompt, priority = prompts[index // each], place.priority(request.priority)
        whole = not (request.stream or choice.ends_early)
        made = GenerationRequest(f"{name}-{index}", prompt, sampling, priority, resuming.told, place.yields, whole)
        parts.append((made, choice))
    guided = text_guide(request, request.response_format, service.capabilities)
    guide_field = guided[1] if guided else ""
    return Run(service.engine, service.instruments, place, parts, guide_field=guide_field)


def _echoes(service: LlmService, request: CompletionRequest, prompts: list[list[int]]) -> list[str]:
    each = request.n or 1
    if not request.echo:
        return [""] * (len(prompts) * each)
    texts = [
        given if isinstance(given, str) else service.engine.codec.decode(tokens)
        for given, tokens in zip(request.prompts, prompts, strict=True)
    ]
    return [text for text in texts for _ in range(each)]
