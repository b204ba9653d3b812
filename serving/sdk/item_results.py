"""What the end of an item means: its result, or the error that stands for it. Pure."""

from __future__ import annotations

from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.errors import Cancelled, DeadlineExceeded, FailedPrecondition, MeshError, error_for_code
from serving.openai.errors import error_of_answer

_ERRORS: Final = 400


def result_pieces(result: bpb.Result) -> list[bytes]:
    """The bytes that its parts had, one after the other: all answers of a decoupled model, else one body."""
    kind = result.WhichOneof("body")
    if kind == "infers":
        return list(result.infers.responses)
    return [bytes(result.infer if kind == "infer" else result.http.body)]


def raise_unless_succeeded(item: bpb.Item) -> None:
    """Raises the error that stands for an item's end; nothing for one that has succeeded, or has not ended."""
    error = error_of(item)
    if error is not None:
        raise error


def error_of(item: bpb.Item) -> MeshError | None:
    """The replica's own error, or why there is no answer; None for an item that has succeeded, or has not ended."""
    state = bpb.State.Name(item.state)
    about = f"the item {item.id} of {item.deployment}"
    reason = f": {item.reason}" if item.reason else ""
    if state == "CANCELLED":
        return Cancelled(f"{about} was cancelled{reason}")
    if state == "EXPIRED":
        return DeadlineExceeded(f"{about} did not end before its deadline{reason}")
    if state == "DEAD":
        return FailedPrecondition(f"{about} was given up after {item.attempts} attempts{reason}")
    error = _error_of_result(item.result)
    if error is None and state == "FAILED":
        return FailedPrecondition(f"{about} failed{reason}")
    return error


def _error_of_result(result: bpb.Result) -> MeshError | None:
    if result.HasField("failure"):
        return error_for_code(result.failure.code, result.failure.message)
    if result.HasField("http") and result.http.status >= _ERRORS:
        return error_of_answer(result.http.status, result.http.body)
    return None
