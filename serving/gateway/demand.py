"""What a request asks of a replica, as far as a gateway can tell: it has no tokenizer and no template. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from serving.openai.sse import to_json
from serving.routing.llm_routing import SESSION_HEADER

if TYPE_CHECKING:
    from serving._prefix import Chain

_CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_RESPONSES: Final = "/v1/responses"
_ANSWER_LIMITS: Final[Mapping[str, Sequence[str]]] = {  # by path: what replicas read there, the first that is said
    _CHAT: ("max_completion_tokens", "max_tokens"),
    _COMPLETIONS: ("max_tokens",),
    _RESPONSES: ("max_output_tokens",),
}
_SHOWN: Final[Mapping[str, Sequence[str]]] = {  # by path: what a model is shown; templates put tools first
    _CHAT: ("tools", "messages"),
    _COMPLETIONS: ("prompt",),
    _RESPONSES: ("tools", "instructions", "input"),
}
_MOST_CHOICES: Final = 128
_MOST_ANSWER: Final = 1 << 20
_END: Final = b"\x1e"  # "record separator": in JSON it is escaped, so no text has it


@dataclass(frozen=True, slots=True)
class Demand:
    """`prompt_bytes` of text, answered by `choices` of at most `answer_tokens` (None: not said) each.

    0: what is answered is not generated. `session` is "" where the request names none. `chain` is None where nobody
    keeps beginnings of such prompts.
    """

    prompt_bytes: int = 0
    answer_tokens: int | None = None
    choices: int = 1
    session: str = ""
    chain: Chain | None = None


def prompt_text(path: str, body: Mapping[str, Any]) -> bytes:
    """All that a model is shown, in the order in which templates write it.

    Prompts that begin alike have texts that do. Anything that is no valid request has some text, too.
    """
    pieces: list[bytes] = []
    for name in _SHOWN.get(path, ("input",)):
        values = body.get(name)
        if values is None:
            continue
        items: Sequence[object] = values if isinstance(values, list) else (values,)
        if items and isinstance(items[0], int):  # token ids
            pieces.append(to_json(items))
        else:
            pieces += [_item(item) for item in items]
    return b"".join([piece + _END for piece in pieces])


def _item(item: object) -> bytes:
    """The role first and then the content: of a message that goes on, what is there is a beginning."""
    if isinstance(item, str):
        return item.encode("utf-8", "replace")
    if isinstance(item, dict) and isinstance(item.get("content"), str):
        rest = {name: item[name] for name in sorted(item) if name not in ("role", "content")}
        text: bytes = item["content"].encode("utf-8", "replace")
        return to_json(item.get("role")) + _END + text + (to_json(rest) if rest else b"")
    if isinstance(item, dict):
        return to_json({name: item[name] for name in ("role", *sorted(item)) if name in item})
    return to_json(item)


def answer_limit(path: str, body: Mapping[str, Any]) -> int | None:
    """Tokens of one answer, as far as the request says."""
    for name in _ANSWER_LIMITS.get(path, ()):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return min(value, _MOST_ANSWER)
    return None


def choices_of(path: str, body: Mapping[str, Any]) -> int:
    """Answers to all prompts of a request together."""
    value = body.get("n")
    each = min(max(value, 1), _MOST_CHOICES) if isinstance(value, int) and not isinstance(value, bool) else 1
    prompts = body.get("prompt") if path == _COMPLETIONS else None
    several = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    return each * min(len(prompts), _MOST_CHOICES) if several and isinstance(prompts, list) else each


def session_of(body: Mapping[str, Any], header: str, keys: Sequence[str]) -> str:
    """The session that a request names by the first of `keys` that it has; "" for none."""
    for key in keys:
        value = header if key == SESSION_HEADER else body.get(key)
        if isinstance(value, str) and value:
            return f"{key}\0{value}"
    return ""
