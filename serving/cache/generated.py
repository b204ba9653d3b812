"""From the bytes of a replica's answer to the `chat.completion` that may be kept. Pure.

An answer in one piece is that already; the chunks of a stream are put together, and only a stream that ended with
`[DONE]` is whole. Source: https://platform.openai.com/docs/api-reference/chat_streaming and
https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serving.errors import InvalidArgument

EVENTS: Final = "text/event-stream"
_DONE: Final = "[DONE]"
_USAGE: Final = ": mesh-usage "  # a comment, with which replicas count the tokens of streams for gateways
_HEAD: Final = ("model", "service_tier", "system_fingerprint")


def completion(data: bytes, media_type: str) -> dict[str, Any]:
    """The answer. Raises `InvalidArgument` for one that is not whole, or is something else."""
    if media_type.split(";")[0].strip() == EVENTS:
        return _joined(_events(data))
    made = _object(data.decode("utf-8", "replace"))
    if made.get("object") not in (None, "chat.completion"):
        raise InvalidArgument(f"it is a {str(made['object'])[:40]!r}, not a chat.completion")
    return made


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    """The objects of all events, the last of which is `[DONE]`."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for block in text.split("\n\n"):
        lines = [line.removeprefix("data:").removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines == [_DONE]:
            return
        usage = next((line for line in block.split("\n") if line.startswith(_USAGE)), "")
        if usage:
            yield {"usage": _object(usage.removeprefix(_USAGE))}
        if lines:
            yield _object("\n".join(lines))
    raise InvalidArgument("the stream has no end")


@dataclass(slots=True)
class _Gathered:
    """Of the only choice."""

    head: dict[str, Any] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error") or chunk.get("object") not in (None, "chat.completion.chunk"):
            raise InvalidArgument("the stream holds an error, or no chunks of a chat")
        self.head = self.head or {name: chunk[name] for name in _HEAD if name in chunk}
        self.usage = chunk.get("usage") or self.usage
        for choice in _items(chunk.get("choices")):
            if choice.get("index") != 0:
                raise InvalidArgument("the stream has several choices")
            self._add_choice(choice)

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if not isinstance(delta, Mapping) or not isinstance(delta.get("content") or "", str):
            raise InvalidArgument("a chunk has no text")
        if any(value for name, value in delta.items() if name not in ("role", "content")):
            raise InvalidArgument("it is more than text: a tool call, a refusal, speech, reasoning")
        self.text.append(delta.get("content") or "")
        self.logprobs += _items((choice.get("logprobs") or {}).get("content"))
        self.finish = choice.get("finish_reason") or self.finish


def _joined(chunks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    gathered = _Gathered()
    for chunk in chunks:
        gathered.add(chunk)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(gathered.text), "refusal": None},
        "logprobs": {"content": gathered.logprobs, "refusal": None} if gathered.logprobs else None,
        "finish_reason": gathered.finish,
    }
    made = {"object": "chat.completion", **gathered.head, "choices": [choice]}
    return made | {"usage": gathered.usage} if gathered.usage else made


def _items(value: Any) -> list[dict[str, Any]]:
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidArgument("a chunk is malformed: a list of objects is wanted")
    return items


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument("it is no JSON object")
    return value
