"""Which requests may share answers at all, and which answers may be kept. Pure.

Two requests share answers only when their *scopes* are equal: tenant, model, revision, and everything in the request
but the text of the last message. What is left out is a short list of fields that cannot change an answer; a field that
nobody thought of is therefore part of the scope.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# How an answer is delivered or accounted for; `model` is in the scope as what it was resolved to.
_NO_INFLUENCE: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "user", "safety_identifier", "metadata", "store"}
    | {"service_tier", "prompt_cache_key", "prompt_cache_retention", "max_completion_tokens", "max_tokens"}
)
# Saying the default is the same as saying nothing.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "tools": [],
    "stop": [],
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "parallel_tool_calls": True,
}
_NOT_A_TEXT: Final = "the last message is not a user's text alone"


@dataclass(frozen=True, slots=True)
class Asked:
    """One chat request with who asks which model. `body` is the request as OpenAI's protocol has it, checked before."""

    tenant: str
    model: str
    revision: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScopeRules:
    """What an operator may change.

    `max_temperature`: a temperature set above it, without a seed, asks for variety, and is not cached; one that is not
    set says nothing about variety. `per_user` also keeps the end users of a tenant (`user`, `safety_identifier`) apart.
    """

    max_temperature: float = 0.7
    per_user: bool = False
    max_text_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Scope:
    """`digest` (32 bytes) is equal for all requests that may share answers; `text` is what is compared inside of it.

    `key` (32 bytes) names both: the exact tier.
    """

    tenant: str
    model: str
    revision: str
    digest: bytes
    text: str
    key: bytes


def scope_of(asked: Asked, rules: ScopeRules | None = None) -> Scope | str:
    """The scope of a request, or why it is never answered from the cache nor kept in it."""
    rules = rules or ScopeRules()
    body = asked.body
    reason = cannot_be_cached(body) or _too_warm(body, rules)
    if reason:
        return reason
    text = _last_text(body["messages"])
    if text is None:
        return _NOT_A_TEXT
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "the text is not Unicode (a lone surrogate)"
    if not text.strip() or len(encoded) > rules.max_text_bytes:
        return f"the text is empty or longer than {rules.max_text_bytes} bytes"
    digest = _digest([asked.tenant, asked.model, asked.revision, _influences(body, rules)])
    key = hashlib.sha256(digest + encoded).digest()
    return Scope(asked.tenant, asked.model, asked.revision, digest, text, key)


def refuse_answer(answer: Mapping[str, Any]) -> str:
    """Why a `chat.completion` is not kept; empty if it may be. Only whole successful texts are."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        return "it has not exactly one choice"
    choice = choices[0]
    message = choice.get("message")
    if answer.get("error") or not isinstance(message, Mapping):
        return "it is an error, or has no message"
    if message.get("tool_calls") or message.get("function_call"):
        return "it calls a tool: what that does must happen each time"
    if choice.get("finish_reason") != "stop":
        return f"it did not end by itself: {choice.get('finish_reason')!r}"
    if any(value for name, value in message.items() if name not in ("role", "content")):
        return "it is more than text: a refusal, speech, reasoning"
    content = message.get("content")
    return "" if isinstance(content, str) and content.strip() else "it has no text"


def cannot_be_cached(body: Mapping[str, Any]) -> str:
    """Why no rules let a request be cached; empty if some may. Cheap: nothing of the text is read."""
    if (body.get("n") or 1) != 1:
        return "n is not 1: several different answers are wanted"
    choice = body.get("tool_choice")
    forced = isinstance(choice, Mapping) and choice.get("type") != "none"
    if choice == "required" or forced or body.get("function_call") not in (None, "auto", "none"):
        return "a tool must be called: what that does must happen each time"
    if body.get("web_search_options") is not None:
        return "the web is searched: the answer is of this moment"
    if body.get("audio") is not None or body.get("modalities") not in (None, ["text"]):
        return "the answer is not text alone"
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return _NOT_A_TEXT
    return ""


def _too_warm(body: Mapping[str, Any], rules: ScopeRules) -> str:
    temperature = body.get("temperature")
    if temperature is None or body.get("seed") is not None:
        return ""
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        return "the temperature is no number"
    if temperature > rules.max_temperature:
        return f"variety is asked for: temperature {temperature} without a seed (above {rules.max_temperature})"
    return ""


def _last_text(messages: list[Any]) -> str | None:
    """The text of the last message, a user's, if it is nothing but text."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            return None
        parts.append(part["text"])
    return "\n".join(parts) if len(parts) != 1 else str(parts[0])


def _influences(body: Mapping[str, Any], rules: ScopeRules) -> dict[str, Any]:
    last = {name: value for name, value in body["messages"][-1].items() if name != "content" and value is not None}
    kept = {
        name: value
        for name, value in body.items()
        if name not in _NO_INFLUENCE and value is not None and not _is_default(name, value)
    }
    limit = body.get("max_completion_tokens")
    kept["messages"] = [list(body["messages"][:-1]), last]
    kept["max_tokens"] = body.get("max_tokens") if limit is None else limit
    if rules.per_user:
        kept["user"] = [body.get("user"), body.get("safety_identifier")]
    return kept


def _is_default(name: str, value: Any) -> bool:
    return (
        name in _DEFAULTS and _DEFAULTS[name] == value and isinstance(value, bool) == isinstance(_DEFAULTS[name], bool)
    )


def _digest(value: Any) -> bytes:
    # 1 and 1.0 are one number in JSON; Python would write them differently.
    text = json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(name): _whole(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value
