"""`POST /v1/responses`: what clients send. Nothing is stored, so each request carries its whole conversation.

Source: https://platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field
from pydantic import Tag as Named

from serving.openai.chat import MAX_TOP_LOGPROBS, Metadata
from serving.openai.checked import RequestModel, checked
from serving.openai.errors import InvalidRequest
from serving.openai.messages import MAX_MESSAGES
from serving.openai.response_format import JsonObjectFormat, TextFormat
from serving.openai.service_tier import SERVICE_TIERS
from serving.openai.tools import MAX_TOOLS, FunctionName

UNDONE_RESPONSES: Final[Mapping[str, Sequence[Any]]] = {
    "previous_response_id": (),
    "background": (False,),
    "store": (False,),
    "conversation": (),
    "prompt": (),
    "max_tool_calls": (),
    "truncation": ("disabled",),
    "service_tier": SERVICE_TIERS,
    "reasoning": ({}, {"effort": "none"}, {"effort": None, "summary": None}),
    "context_management": ([],),
    "moderation": (),
}
LOGPROBS: Final = "message.output_text.logprobs"
_WHY: Final = {
    "previous_response_id": "responses are not stored; send the whole conversation as `input`",
    "background": "it needs a broker, which only gateways and HTTP proxies know; ask one of them, or use `stream`",
    "store": "responses are not stored; leave it away, or set it to false",
    "conversation": "conversations are not stored; send the whole conversation as `input`",
}


class InputText(RequestModel):
    """Only text is understood: no images, sounds or files."""

    type: Literal["input_text", "output_text"]
    text: str


InputContent = str | Annotated[list[InputText], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class InputMessage(RequestModel):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent


class InputCall(RequestModel):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputCallOutput(RequestModel):
    """What it gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: InputContent


def _kind(item: Any) -> str | None:
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[InputMessage, Named("message")]
    | Annotated[InputCall, Named("function_call")]
    | Annotated[InputCallOutput, Named("function_call_output")],
    Discriminator(_kind),
]


class SchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextOptions(RequestModel):
    format: Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class FunctionTool(RequestModel):
    """The only kind of tools: those that a server would run itself are not there."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(RequestModel):
    type: Literal["function"]
    name: FunctionName


class ResponseStreamOptions(RequestModel):
    include_obfuscation: bool | None = None


class ResponseRequest(RequestModel):
    """The last group asks for nothing that would change an answer, and is taken."""

    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    metadata: Metadata | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    truncation: str | None = None


class GatewayResponseRequest(ResponseRequest):
    """With `background` it waits at a broker, and its answer is kept; else nothing is."""

    background: bool | None = None


UNDONE_AT_GATEWAYS: Final[Mapping[str, Sequence[Any]]] = {
    name: values for name, values in UNDONE_RESPONSES.items() if name not in ("background", "store")
}


def read_background_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Of a response whose `background` is true. Raises `InvalidRequest`, as OpenAI does where it may not be stored."""
    if body.get("background") is not True:
        raise InvalidRequest("`background`: a boolean is wanted", param="background", error_code="invalid_type")
    if body.get("store") not in (None, True):
        raise InvalidRequest(
            "`store` must be true, or left away, where `background` is: the answer is kept until it is fetched",
            param="store",
            error_code="invalid_value",
        )
    return read_response_request({name: value for name, value in body.items() if name not in ("background", "store")})


def read_response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Raises `InvalidRequest` for fields that are wrong, or that nothing here follows."""
    for name, why in _WHY.items():
        if body.get(name) not in (None, False):
            raise InvalidRequest(
                f"`{name}` is not supported here: {why}", param=name, error_code="unsupported_parameter"
            )
    return checked(ResponseRequest, body, UNDONE_RESPONSES)
