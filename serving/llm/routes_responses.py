"""`POST /v1/responses`: a chat in other words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

from pydantic import ValidationError

from serving.llm.cost import add_usage_header, usage_comment
from serving.llm.limits import Place
from serving.llm.response_builder import ResponseBuilder
from serving.llm.routes_chat import Asked, chat_run, prepare, usage
from serving.llm.service import LlmService, new_id
from serving.openai import sse
from serving.openai.chat import ChatCompletionRequest, check_tool_choice
from serving.openai.checked import ignored_fields
from serving.openai.errors import InvalidRequest
from serving.openai.messages import (
    AssistantMessage,
    FunctionCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from serving.openai.response_format import JsonSchema, JsonSchemaFormat, ResponseFormat
from serving.openai.response_objects import ResponseEvent, begun_response
from serving.openai.responses import (
    UNDONE_RESPONSES,
    InputCall,
    InputCallOutput,
    InputContent,
    InputMessage,
    NamedTool,
    ResponseRequest,
    SchemaFormat,
    read_response_request,
)
from serving.openai.service_tier import CLASS_HEADER, service_tier
from serving.openai.tools import Function, NamedFunction, NamedToolChoice, Tool, ToolChoice
from serving.openai_http.service import named_ignored
from serving.wire import Wire

# Where a chat's field comes from, for errors.
_FIELDS: Final = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}


async def responses(service: LlmService, wire: Wire, body: dict[str, Any]) -> None:
    request = read_response_request(body)
    service.check_model(request.model)
    for name, value in named_ignored(ignored_fields(request, body, UNDONE_RESPONSES)).items():
        wire.add_header(name, value)
    tier = service_tier(request.service_tier, wire.header(CLASS_HEADER.encode()))
    with service.admission.enter(1, tier) as place, _in_its_words():
        chat = as_chat(request)
        check_tool_choice(chat)
        asked = await prepare(service, chat)
        place.wait_for(len(asked.prompt))
        await _answer(service, wire, request, chat, asked, place)


async def _answer(
    service: LlmService, wire: Wire, request: ResponseRequest, chat: ChatCompletionRequest, asked: Asked, place: Place
) -> None:
    """As a stream, its head waits for the first token: what fails before it still gets a status of its own."""
    head = service.head("resp_", request.model, place.tier)
    begun = begun_response(request, name=head.id, created=head.created, model=head.model, tier=head.tier)
    builder = ResponseBuilder(begun, new_id)
    run = chat_run(service, chat, asked, place, head.id)
    async with aclosing(run.deltas()) as deltas:
        async for new in deltas:
            begin = [] if wire.status or not request.stream else list(builder.begin())
            events = [*begin, *builder.add(new)]
            if request.stream:
                if not wire.status:
                    await wire.begin_events(run.token_headers())
                await wire.send(_encoded(events))
    cost = usage(asked, run)
    events = list(builder.end(cost))
    if request.stream:
        await wire.end(_encoded(events) + usage_comment(wire, cost))
    else:
        add_usage_header(wire, cost)
        await wire.answer(200, builder.response, run.token_headers())


def _encoded(events: Iterable[ResponseEvent]) -> bytes:
    return b"".join(sse.event(item, item["type"]) for item in events)


@contextmanager
def _in_its_words() -> Iterator[None]:
    """Errors name the fields of this protocol, not those of chats; what only a chat's request refuses is one, too."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = _FIELDS.get(str(first["loc"][0]), str(first["loc"][0]))
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"`{field}`: {text}", param=field, error_code="invalid_value") from error
    except InvalidRequest as error:
        for chat, own in _FIELDS.items():
            if error.param == chat or (error.param or "").startswith(f"{chat}["):
                error.message = error.message.replace(f"`{error.param}`", f"`{own}`")
                error.param = own
                break
        raise


def as_chat(request: ResponseRequest) -> ChatCompletionRequest:
    """The same as a request of the chat protocol."""
    return ChatCompletionRequest(
        model=request.model,
        messages=_messages(request),
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_output_tokens,
        stream=request.stream,
        logprobs=bool(request.include) or bool(request.top_logprobs),
        top_logprobs=request.top_logprobs,
        response_format=_format(request),
        tools=_tools(request),
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
    )


def _messages(request: ResponseRequest) -> list[Message]:
    """Calls that follow each other, or a message of the assistant, are one message."""
    made: list[Message] = []
    if request.instructions:
        made.append(SystemMessage(role="system", content=request.instructions))
    if isinstance(request.input, str):
        return [*made, UserMessage(role="user", content=request.input)]
    for item in request.input:
        if isinstance(item, InputMessage):
            made.append(_message(item))
        elif isinstance(item, InputCallOutput):
            made.append(ToolMessage(role="tool", content=_text(item.output), tool_call_id=item.call_id))
        else:
            _add_call(made, item)
    return made


def _message(item: InputMessage) -> Message:
    text = _text(item.content)
    if item.role == "user":
        return UserMessage(role="user", content=text)
    if item.role == "assistant":
        return AssistantMessage(role="assistant", content=text)
    return SystemMessage(role=item.role, content=text)


def _add_call(made: list[Message], item: InputCall) -> None:
    if not made or not isinstance(made[-1], AssistantMessage):
        made.append(AssistantMessage(role="assistant"))
    last = made[-1]
    assert isinstance(last, AssistantMessage)
    call = ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments))
    last.tool_calls = [*(last.tool_calls or ()), call]


def _text(content: InputContent) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _format(request: ResponseRequest) -> ResponseFormat | None:
    asked = request.text.format if request.text is not None else None
    if isinstance(asked, SchemaFormat):
        schema = JsonSchema(name=asked.name, schema=asked.json_schema, strict=asked.strict)
        return JsonSchemaFormat(type="json_schema", json_schema=schema)
    return asked


def _tools(request: ResponseRequest) -> list[Tool] | None:
    if request.tools is None:
        return None
    return [
        Tool(
            type="function",
            function=Function(
                name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
            ),
        )
        for tool in request.tools
    ]


def _choice(request: ResponseRequest) -> ToolChoice | None:
    if isinstance(request.tool_choice, NamedTool):
        return NamedToolChoice(type="function", function=NamedFunction(name=request.tool_choice.name))
    return request.tool_choice
