"""`POST /v1/chat/completions`: what is answered, at once (`ChatCompletion`) or in pieces (`ChatCompletionChunk`).

Source: https://platform.openai.com/docs/api-reference/chat/object and chat_streaming.
"""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from serving.openai.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class CalledFunction(TypedDict):
    """`arguments` is JSON as the model wrote it; it may be cut where the answer was."""

    name: str
    arguments: str


class ToolCallObject(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class FunctionDelta(TypedDict):
    """`name` stands in the first piece of a call only."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """`id` and `type` stand in the first piece of a call only; `index` says to which call a piece belongs."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """`bytes` is null for a token that is a part of a character."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    content: list[TokenLogprob] | None
    refusal: None


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallObject]]


class ChatChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: str
    system_fingerprint: str


class Delta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[None]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """`usage` is there only where `stream_options.include_usage` asks for it: null but in the last chunk."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    service_tier: str
    system_fingerprint: str
    usage: NotRequired[Usage | None]
