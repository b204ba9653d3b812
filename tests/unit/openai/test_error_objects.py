"""Error objects and events."""

from __future__ import annotations

import json

import pytest

from serving import errors
from serving.openai import sse
from serving.openai.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    error_object,
    retry_after_s,
    status_of,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.InvalidArgument("x"), 400, "invalid_request_error", None),
        (InvalidRequest("x", param="n", error_code="invalid_value"), 400, "invalid_request_error", "invalid_value"),
        (BodyTooLarge(5), 413, "invalid_request_error", "request_too_large"),
        (errors.Unauthenticated("x"), 401, "invalid_request_error", "invalid_api_key"),
        (errors.PermissionDenied("x"), 403, "invalid_request_error", "permission_denied"),
        (ModelNotFound("a", "b"), 404, "invalid_request_error", "model_not_found"),
        (errors.ResourceExhausted("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (errors.NotSupported("x"), 501, "invalid_request_error", "not_supported"),
        (errors.Internal("x"), 500, "server_error", "internal_error"),
        (errors.Unavailable("x"), 503, "server_error", "unavailable"),
        (errors.DeadlineExceeded("x"), 504, "server_error", "timeout"),
    ],
)
def test_status_type_and_code(error: errors.MeshError, status: int, kind: str, code: str | None) -> None:
    told = error_object(error)["error"]
    assert (status_of(error), told["type"], told["code"]) == (status, kind, code)
    assert told["message"] == error.message
    assert told["param"] == getattr(error, "param", None)


def test_the_context_is_told_with_all_numbers() -> None:
    told = error_object(ContextLengthExceeded(context=100, prompt=90, answer=20, param="max_tokens"))["error"]
    assert told["code"] == "context_length_exceeded"
    assert told["param"] == "max_tokens"
    for number in ("100", "110", "90", "20"):
        assert number in told["message"]


def test_only_what_may_be_tried_again_says_when() -> None:
    assert retry_after_s(errors.ResourceExhausted("x")) == 1
    assert retry_after_s(errors.Unavailable("x")) == 1
    assert retry_after_s(errors.Internal("x")) is None


def test_events_are_one_line_whatever_they_hold() -> None:
    value = {"text": "a\nb\r\n\u2028 é 😀"}
    data = sse.event(value)
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    assert b"\r" not in data
    assert json.loads(data[6:]) == value
    assert sse.event({}, "response.created") == b"event: response.created\ndata: {}\n\n"
