"""`POST /v1/responses`: what is answered at once, or told in events.

Source: https://platform.openai.com/docs/api-reference/responses/object and responses-streaming.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from serving.openai.chat_answers import TokenLogprob
from serving.openai.responses import NamedTool, ResponseRequest
from serving.openai.service_tier import ServiceTier

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(TypedDict):
    """`arguments` is JSON as the model wrote it; it may be cut where the answer was."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


class InputTokensDetails(TypedDict):
    cached_tokens: int


class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(TypedDict):
    reason: Literal["max_output_tokens"]


class ResponseError(TypedDict):
    code: Literal["server_error"]
    message: str


class ResponseObject(TypedDict):
    """Much of it repeats the request. Only those in the background are queued, fail, are cancelled, and are stored."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(TypedDict, total=False):
    """One event of a stream; which fields it has depends on `type`, such as `response.output_text.delta`."""

    type: str
    sequence_number: int
    response: ResponseObject
    output_index: int
    content_index: int
    item_id: str
    item: OutputMessage | OutputCall
    part: OutputText
    delta: str
    text: str
    arguments: str
    name: str
    logprobs: list[TokenLogprob]


def begun_response(
    request: ResponseRequest, *, name: str, created: int, model: str, tier: str = ServiceTier.DEFAULT.value
) -> ResponseObject:
    """The object of an answer that has nothing yet. `created` is a unix time in seconds."""
    asked = request.text.format if request.text is not None else None
    choice = request.tool_choice
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "service_tier": tier,
        "store": False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": asked.model_dump(by_alias=True) if asked is not None else {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": [tool.model_dump() for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }
