"""`POST /v1/chat/completions`: what clients send.

Source: https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from serving.openai.checked import at_most, checked
from serving.openai.errors import InvalidRequest
from serving.openai.messages import Messages
from serving.openai.response_format import ResponseFormat
from serving.openai.sampling_fields import UNDONE_SAMPLING, SamplingFields
from serving.openai.service_tier import SERVICE_TIERS
from serving.openai.tools import NamedToolChoice, ToolFields

MAX_TOP_LOGPROBS: Final = 20
_METADATA: Final = 16

UNDONE_CHAT: Final[Mapping[str, Sequence[Any]]] = {
    **UNDONE_SAMPLING,
    "audio": (),
    "modalities": (["text"],),
    "functions": (),
    "function_call": (),
    "store": (False,),
    "service_tier": SERVICE_TIERS,
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "best_of": (1,),
}
_INSTEAD: Final = {"functions": "tools", "function_call": "tool_choice"}

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], at_most(_METADATA)
]


class ChatCompletionRequest(SamplingFields, ToolFields):
    """The last group asks for nothing that would change an answer, and is taken."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    service_tier: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    metadata: Metadata | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def answer_tokens_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None and self.max_tokens is not None else "messages"


def read_chat(body: Mapping[str, Any]) -> ChatCompletionRequest:
    """Raises `InvalidRequest` for fields that are wrong, that contradict each other, or that nothing here follows."""
    for name, instead in _INSTEAD.items():
        if body.get(name) is not None:
            raise InvalidRequest(
                f"`{name}` is deprecated and not supported here; use `{instead}`",
                param=name,
                error_code="unsupported_parameter",
            )
    request = checked(ChatCompletionRequest, body, UNDONE_CHAT)
    check_stream_options(request)
    _check_logprobs(request)
    check_tool_choice(request)
    return request


def check_stream_options(request: SamplingFields) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "`stream_options` can only be given where `stream` is true",
            param="stream_options",
            error_code="invalid_value",
        )


def check_tool_choice(request: ToolFields) -> None:
    """A choice needs tools, and a named one must be among them."""
    choice = request.tool_choice
    if choice in (None, "none"):
        return
    if not request.tools:
        raise InvalidRequest(
            "`tool_choice` can only be given where `tools` are", param="tool_choice", error_code="invalid_value"
        )
    if isinstance(choice, NamedToolChoice):
        names = [tool.function.name for tool in request.tools]
        if choice.function.name not in names:
            raise InvalidRequest(
                f"`tool_choice` names `{choice.function.name}`, which is not among `tools` ({', '.join(names)})",
                param="tool_choice",
                error_code="invalid_value",
            )


def _check_logprobs(request: ChatCompletionRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            "`top_logprobs` can only be given where `logprobs` is true",
            param="top_logprobs",
            error_code="invalid_value",
        )
