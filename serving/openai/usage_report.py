"""How a replica tells a gateway what an answer cost, beside the protocol: whoever does not know of it sees nothing.

The gateway asks with the header `x-mesh-usage: report`. An answer that is whole says it in a header of that name, a
stream in a comment before its end, which readers of events pass over (https://html.spec.whatwg.org, 9.2.6).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from serving.openai.sse import to_json

HEADER: Final = "x-mesh-usage"
REPORT: Final = "report"
_COMMENT: Final = b": mesh-usage "
_EVENT_END: Final = b"\n\n"


def header_text(usage: Mapping[str, Any]) -> str:
    return _compact(usage).decode()


def comment(usage: Mapping[str, Any]) -> bytes:
    return _COMMENT + _compact(usage) + _EVENT_END


def without_comment(events: bytes) -> tuple[bytes, bytes]:
    """Whole events without the comment, and what it said ("" where there is none)."""
    start = 0 if events.startswith(_COMMENT) else events.find(_EVENT_END + _COMMENT)
    if start < 0:
        return events, b""
    if start or not events.startswith(_COMMENT):
        start += len(_EVENT_END)
    end = events.find(_EVENT_END, start)
    if end < 0:
        return events, b""
    return events[:start] + events[end + len(_EVENT_END) :], events[start + len(_COMMENT) : end]


def tokens_in(text: bytes) -> int | None:
    """Of the `usage` object with which `text` begins, in chats' or responses' words; None for what is none."""
    try:
        usage, _ = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))
    except ValueError:
        return None
    if not isinstance(usage, dict):
        return None
    total = _count(usage.get("total_tokens"))
    if total is not None:
        return total
    pairs = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
    for prompt, answer in pairs:
        if _count(usage.get(prompt)) is not None:
            return (_count(usage.get(prompt)) or 0) + (_count(usage.get(answer)) or 0)
    return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


def _compact(usage: Mapping[str, Any]) -> bytes:
    return to_json({name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
