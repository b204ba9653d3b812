"""A stored answer as the answer to another request: at once, or as a stream of the same chunks. Pure.

Source: https://platform.openai.com/docs/api-reference/chat/object and chat_streaming.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

from serving.openai import sse

_PIECE: Final = 4096  # characters of a chunk
_OF_CHOICES: Final = frozenset({"choices", "usage"})


def whole(answer: bytes, *, now: float) -> bytes:
    """The `chat.completion`, as one of its own: with a new id, of this moment (unix time)."""
    return sse.to_json(_renewed(answer, now))


def stream(answer: bytes, *, now: float, include_usage: bool) -> bytes:
    """Its events, with the usage in a last chunk where that is asked for, and `[DONE]`."""
    renewed = _renewed(answer, now)
    frame = {name: value for name, value in renewed.items() if name not in _OF_CHOICES}
    frame["object"] = "chat.completion.chunk"
    tail = {"usage": None} if include_usage else {}
    events = [sse.event({**frame, "choices": [choice], **tail}) for choice in _choices(renewed["choices"][0])]
    if include_usage:
        events.append(sse.event({**frame, "choices": [], "usage": renewed.get("usage")}))
    return b"".join([*events, sse.DONE])


def _renewed(answer: bytes, now: float) -> dict[str, Any]:
    return {**json.loads(answer), "id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(now)}


def _choices(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The role, the text, and why it ended. Log probabilities, if any, come with the first piece of the text."""
    yield _chunk({"role": "assistant", "content": "", "refusal": None})
    text, logprobs = choice["message"]["content"], choice.get("logprobs")
    for start in range(0, len(text), _PIECE):
        yield _chunk({"content": text[start : start + _PIECE]}, logprobs=None if start else logprobs)
    yield _chunk({}, finish=choice["finish_reason"])


def _chunk(delta: dict[str, Any], *, logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
