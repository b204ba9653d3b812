"""What clients are told of a batch: OpenAI's object, a function of its records and of now. Pure.

Source: https://platform.openai.com/docs/api-reference/batch/object.
"""

from __future__ import annotations

from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import TypedDict

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import MODE_OWN, MODE_SHARED, Batch, ends_at, seconds

BatchStatusWord = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_WORDS: Final[dict[int, BatchStatusWord]] = {
    pb.BATCH_STATE_UNSPECIFIED: "validating",
    pb.VALIDATING: "validating",
    pb.IN_PROGRESS: "in_progress",
    pb.FINALIZING: "finalizing",
    pb.COMPLETED: "completed",
    pb.FAILED_VALIDATION: "failed",
    pb.EXPIRED_WINDOW: "expired",
    pb.CANCELLED_BATCH: "cancelled",
}
_NONE: Final = pb.BatchStatus()
_NO_APPLICATION: Final = pb.BatchApplication()


class LineFault(TypedDict):
    """Why the input was refused. `line` counts from 1; None: it is the whole file's."""

    code: str
    message: str
    param: str | None
    line: int | None


class LineFaults(TypedDict):
    """The first ones of an input that was refused."""

    object: Literal["list"]
    data: list[LineFault]


class RequestCounts(TypedDict):
    """Lines of the input; `total` is 0 while it was not read."""

    total: int
    completed: int
    failed: int


class CachedTokens(TypedDict):
    """Of prompts: those that replicas knew from earlier ones."""

    cached_tokens: int


class ReasoningTokens(TypedDict):
    """Of answers; the mesh's engines count none apart."""

    reasoning_tokens: int


class BatchUsage(TypedDict):
    """Tokens, as replicas count them."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(TypedDict):
    """A batch. Times are unix seconds, None where that has not happened.

    The last five are extensions: `application` is its own one, in mode `own` (still named when the batch has ended and
    it is gone), and `message` what it waits for; `attempts` at its lines broke one after the other without progress,
    the last one by `last_failure`.
    """

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: LineFaults | None
    input_file_id: str
    completion_window: str
    status: BatchStatusWord
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    mode: Literal["shared", "own"]
    application: str | None
    message: str | None
    attempts: int
    last_failure: str | None


def word_of(batch: Batch, now: float) -> BatchStatusWord:
    """Its status. `now`: unix seconds."""
    told = _WORDS[(batch.status or _NONE).state]
    if told in ("completed", "failed", "expired", "cancelled"):
        return told
    if ends_at(batch, now) is None:
        return told if batch.cancel is None else "cancelling"
    return "cancelled" if _cancelled_in_time(batch) else "expired"


def _cancelled_in_time(batch: Batch) -> bool:
    return batch.cancel is not None and seconds(batch.cancel.asked_at) < seconds(batch.order.expires_at)


def view(batch: Batch, now: float) -> BatchObject:
    """`now`: unix seconds."""
    order, status = batch.order, batch.status or _NONE
    word, ended = word_of(batch, now), ends_at(batch, now)
    own = batch.application or _NO_APPLICATION
    end = None if ended is None else int(ended)
    return {
        "id": order.id,
        "object": "batch",
        "endpoint": order.endpoint,
        "model": status.model or None,
        "errors": _faults(status),
        "input_file_id": order.input_file,
        "completion_window": window_text(order.completion_window_s),
        "status": word,
        "output_file_id": status.output_file or None,
        "error_file_id": status.error_file or None,
        "created_at": order.created_at.seconds,
        "in_progress_at": _unix(status.in_progress_at),
        "expires_at": order.expires_at.seconds,
        "finalizing_at": _unix(status.finalizing_at),
        "completed_at": end if word == "completed" else None,
        "failed_at": end if word == "failed" else None,
        "expired_at": end if word == "expired" else None,
        "cancelling_at": None if batch.cancel is None else batch.cancel.asked_at.seconds,
        "cancelled_at": end if word == "cancelled" else None,
        "request_counts": {"total": status.total, "completed": status.completed, "failed": status.failed},
        "usage": _usage(status),
        "metadata": dict(order.metadata) or None,
        "mode": MODE_OWN if batch.own else MODE_SHARED,
        "application": own.name or None,
        "message": (own.message or None) if ended is None else None,
        "attempts": _broken(batch),
        "last_failure": status.last_failure or None,
    }


def _broken(batch: Batch) -> int:
    """The one under way may still go well."""
    return max(0, (batch.status or _NONE).attempts - (batch.claim is not None))


def window_text(window_s: int) -> str:
    """As clients give it: `24h`, or `90m` and `45s` where it is no whole number of hours."""
    for unit_s, unit in ((3600, "h"), (60, "m")):
        if window_s % unit_s == 0:
            return f"{window_s // unit_s}{unit}"
    return f"{window_s}s"


def _unix(moment: Timestamp) -> int | None:
    return int(moment.seconds) or None


def _faults(status: pb.BatchStatus) -> LineFaults | None:
    if not status.errors:
        return None
    data: list[LineFault] = [
        {"code": one.code, "message": one.message, "param": one.param or None, "line": one.line or None}
        for one in status.errors
    ]
    return {"object": "list", "data": data}


def _usage(status: pb.BatchStatus) -> BatchUsage:
    return {
        "input_tokens": status.prompt_tokens,
        "input_tokens_details": {"cached_tokens": status.cached_tokens},
        "output_tokens": status.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": status.prompt_tokens + status.completion_tokens,
    }
