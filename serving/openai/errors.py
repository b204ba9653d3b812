"""OpenAI's error objects: every error has a status, a type, a code, and names the field that it is about.

Source: https://platform.openai.com/docs/guides/error-codes and what the API answers; where it has no code for
something, the word is ours.
"""

from __future__ import annotations

import json
from typing import Final

from typing_extensions import TypedDict

from serving.errors import InvalidArgument, MeshError, NotFound, ResourceExhausted, Unavailable, error_for_status

_TYPES: Final = {429: "rate_limit_error"}
_CODES: Final = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    429: "rate_limit_exceeded",
    499: "cancelled",
    500: "internal_error",
    501: "not_supported",
    503: "unavailable",
    504: "timeout",
}
_RETRY_AFTER_S: Final = 1
_SHOWN: Final = 500  # characters of a body that is no error object


class ErrorObject(TypedDict):
    """`param` is the field that is wrong, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    """The body of every answer that is an error, and the data of an event in the middle of a stream."""

    error: ErrorObject


class InvalidRequest(InvalidArgument):
    """`param` is the place, such as `messages[0].content`; `error_code` a word for programs, such as `invalid_type`."""

    def __init__(self, message: str, *, param: str | None = None, error_code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.error_code = error_code


class BodyTooLarge(InvalidRequest):
    """The body has more bytes, or other things, than are taken."""

    http_status = 413

    def __init__(self, limit: int, what: str = "bytes") -> None:
        super().__init__(f"the body has more than the {limit} {what} that are taken", error_code="request_too_large")


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together do not fit."""

    def __init__(self, *, context: int, prompt: int, answer: int, param: str) -> None:
        asked = f"{prompt + answer} tokens ({prompt} in the prompt, {answer} in the answer)"
        super().__init__(
            f"this model's context is {context} tokens, but {asked} were asked for; shorten the prompt or ask for less",
            param=param,
            error_code="context_length_exceeded",
        )


class ModelNotFound(NotFound):
    """The model that the request names is not served here."""

    param = "model"
    error_code = "model_not_found"

    def __init__(self, name: str, served: str) -> None:
        super().__init__(f"there is no model `{name}` here; this endpoint serves `{served}`")


def status_of(error: MeshError) -> int:
    """The HTTP status of its answer."""
    return error.http_status


def error_object(error: MeshError) -> ErrorAnswer:
    """`{"error": {"message", "type", "param", "code"}}`."""
    status = status_of(error)
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status)
            or ("invalid_request_error" if status < 499 or status == 501 else "server_error"),
            "param": getattr(error, "param", None),
            "code": getattr(error, "error_code", None) or _CODES.get(status),
        }
    }


def retry_after_s(error: MeshError) -> int | None:
    """What `Retry-After` says; None where trying again cannot help. An error may say it itself (`retry_after_s`)."""
    if hasattr(error, "retry_after_s"):
        own: int | None = error.retry_after_s
        return own
    return _RETRY_AFTER_S if isinstance(error, ResourceExhausted | Unavailable) else None


def error_of_answer(status: int, body: bytes) -> MeshError:
    """The error that an answer with a status from 400 on stands for, in its own words."""
    text = body.decode("utf-8", "replace")
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = f"answered with {status}: {text[:_SHOWN]}"
    return error_for_status(status, message)
