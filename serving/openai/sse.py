"""Server-sent events as OpenAI streams them: `data: {...}`, an empty line, and `data: [DONE]` at the end.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"
MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
# json.dumps with arguments makes an encoder each time, and a stream asks for one with each token.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def to_json(value: Any) -> bytes:
    """Compact UTF-8."""
    return _encode(value).encode("utf-8")


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event. JSON has no raw line break, so its data is always one line."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, to_json(data))
