"""The messages of a chat as clients send them, and as the templates of models read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from serving.openai.checked import RequestModel
from serving.openai.errors import InvalidRequest

MAX_MESSAGES = 2048  # of a chat, parts of a message, and calls: OpenAI's bound, too


class TextPart(RequestModel):
    """Only text is understood: no images, sounds or files."""

    type: Literal["text"]
    text: str


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: str


TextContent = str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
AssistantContent = str | Annotated[list[AssistantPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class FunctionCall(RequestModel):
    """`arguments` is the text of a JSON object, as models wrote it: it may be no JSON at all."""

    name: str
    arguments: str


class ToolCall(RequestModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(RequestModel):
    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = None


class UserMessage(RequestModel):
    role: Literal["user"]
    content: TextContent
    name: str | None = None


class AssistantMessage(RequestModel):
    """An earlier answer, with content or calls or both."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    audio: dict[str, Any] | None = None
    function_call: dict[str, Any] | None = None


class ToolMessage(RequestModel):
    """What a called tool gave."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As templates want them: `developer` is `system`, content is one text, arguments are objects where they are JSON.

    Raises `InvalidRequest` for what was once said with sounds or with the deprecated `function_call`.
    """
    return [_for_template(message, index) for index, message in enumerate(messages)]


def _for_template(message: Message, index: int) -> dict[str, Any]:
    if isinstance(message, AssistantMessage):
        return _assistant(message, index)
    made: dict[str, Any] = {"role": message.role, "content": _text(message.content)}
    if made["role"] == "developer":
        made["role"] = "system"
    if isinstance(message, ToolMessage):
        made["tool_call_id"] = message.tool_call_id
    if message.name:
        made["name"] = message.name
    return made


def _assistant(message: AssistantMessage, index: int) -> dict[str, Any]:
    for field in ("audio", "function_call"):
        if getattr(message, field) is not None:
            instead = " (use tool_calls)" if field == "function_call" else ""
            raise InvalidRequest(
                f"`messages[{index}].{field}` is not supported here{instead}",
                param=f"messages[{index}].{field}",
                error_code="unsupported_parameter",
            )
    if message.content is None and not message.tool_calls and message.refusal is None:
        raise InvalidRequest(
            f"`messages[{index}]` of the assistant has neither content nor tool_calls",
            param=f"messages[{index}].content",
            error_code="missing_required_parameter",
        )
    made: dict[str, Any] = {"role": "assistant", "content": _text(message.content or message.refusal or "")}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _object_or_text(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return made


def _text(content: str | Sequence[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _object_or_text(arguments: str) -> Mapping[str, Any] | str:
    """Models may have written what is no JSON; the chat must be able to go on with it."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
