"""One row as a request, and what became of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving.errors import InvalidArgument
from serving.gateway.demand import answer_limit, choices_of, prompt_text

EMBEDDINGS: Final = "/v1/embeddings"
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
PATHS: Final = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)
_PREFIX_BYTES: Final = 256  # of text; shorter beginnings save less than what moving a row costs
_TOKEN_BYTES: Final = 4  # of text, about
_PROMPT_WEIGHT: Final = 0.05  # of a prompt's token against one of an answer, which takes a step of its own
_UNSAID_TOKENS: Final = 256.0  # of an answer whose length nobody limits
_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why a row has no answer: what stands in `__error__`. `code` is a word for programs, as OpenAI's errors have."""

    code: str
    message: str
    attempts: int = 0

    def as_struct(self) -> dict[str, str | int]:
        return {"code": self.code, "message": self.message, "attempts": self.attempts}


@dataclass(frozen=True, slots=True)
class RowRequest:
    """What is sent for a row: `body` is an object of OpenAI's API, or a `ModelInferRequest`.

    `expected` is its length in tokens of an answer. Rows of the same `prefix` begin alike (empty: none), and those
    of the same `same` have one answer.
    """

    path: str
    body: Any
    model: str = ""
    expected: float = 1.0
    prefix: bytes = b""
    same: bytes = b""


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """`status` is that of HTTP, 0 where nobody answered; `value` the parsed body, or a `ModelInferResponse`.

    A request's own fault is an answer, too: then `fault` says it beside `status` and `value`. `work` is how
    much was computed for it: 0 for the answer of another row.
    """

    status: int = 0
    value: Any = None
    raw: bytes = b""
    request_id: str = ""
    attempts: int = 1
    fault: RowFault | None = None
    work: float = 1.0


def openai_request(path: str, body: Mapping[str, Any], *, expected: float | None = None) -> RowRequest:
    """`expected` tokens of the answer, where somebody knows them better than the request's limit does.

    Raises `InvalidArgument` for a path that is none of OpenAI's, for a stream, and for what JSON has no word for.
    """
    if path not in PATHS:
        raise InvalidArgument(f"url: {path!r} is not known (allowed: {', '.join(PATHS)})")
    if body.get("stream"):
        raise InvalidArgument("stream: a row has one answer and no stream; leave it out")
    try:
        text = prompt_text(path, body)
        same = _digest(path.encode(), _canonical(body).encode()) if is_determined(path, body) else b""
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the row cannot be said in JSON: {error}") from error
    model = body.get("model")
    return RowRequest(
        path,
        body,
        model if isinstance(model, str) else "",
        _expected(path, body, len(text), expected),
        _digest(text[:_PREFIX_BYTES]) if len(text) >= _PREFIX_BYTES and path != EMBEDDINGS else b"",
        same,
    )


def is_determined(path: str, body: Mapping[str, Any]) -> bool:
    """Whether another request of the same body has the same answer: greedy ones, seeded ones, embeddings."""
    return path == EMBEDDINGS or body.get("temperature") == 0 or isinstance(body.get("seed"), int)


def _expected(path: str, body: Mapping[str, Any], text_bytes: int, answer: float | None) -> float:
    prompt = text_bytes / _TOKEN_BYTES
    if path == EMBEDDINGS:
        return prompt
    if answer is None:
        answer = float(answer_limit(path, body) or _UNSAID_TOKENS)
    return prompt * _PROMPT_WEIGHT + answer * choices_of(path, body)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
