"""What clients are told of a queued request: the object of its state, and of why it has no result. Pure."""

from __future__ import annotations

import json
import time
from typing import Any, Final, Literal

from typing_extensions import NotRequired, TypedDict

from serving._proto import broker_pb2 as bpb
from serving.errors import MeshError
from serving.gateway.catalog import ModelKey
from serving.gateway.queued.ids import QueuedId
from serving.gateway.queued.options import OWN_LABELS
from serving.openai.errors import ErrorObject, error_object
from serving.sdk.item_results import error_of

PREFIX: Final = "/v1/async"
PATH_LABEL: Final = f"{OWN_LABELS}path"  # what was asked, as one knows it at the replica
MODEL_LABEL: Final = f"{OWN_LABELS}model"
_MAX_LABEL: Final = 64  # bytes
_LIVE: Final = (bpb.QUEUED, bpb.RUNNING)
Status = Literal["queued", "running", "succeeded", "failed", "dead", "cancelled", "expired"]


class Links(TypedDict):
    """Paths at this gateway, or at any other one of the mesh."""

    self: str
    result: str
    events: str
    cancel: str


class QueuedRequest(TypedDict):
    """A request that waits, runs or has ended. Times are unix seconds; `ticket` is what `client.ticket` takes.

    `progress` is 0 to 1, as far as its replica says. `reason` is why the last attempt failed, or why there is no
    answer; `error` is what a client that had waited would have been answered. `repeated`, of a submission: its
    idempotency key was known, and this is the first one's request.
    """

    id: str
    object: Literal["async.request"]
    ticket: str
    status: Status
    model: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    deadline_at: int | None
    priority: Literal["low", "default", "high"]
    attempts: int
    progress: float
    labels: dict[str, str]
    reason: str | None
    error: ErrorObject | None
    links: Links
    repeated: NotRequired[bool]


def has_ended(item: bpb.Item) -> bool:
    return item.state not in _LIVE


def own_labels(key: ModelKey, path: str) -> dict[str, str]:
    """What a broker keeps for us with the item. A model's name that is too long for a label is left away."""
    labels = {PATH_LABEL: path}
    if len(key.model.encode()) <= _MAX_LABEL:
        labels[MODEL_LABEL] = key.model
    return labels


def model_of(item: bpb.Item) -> str:
    """Of a request that was submitted elsewhere, its deployment."""
    return item.labels.get(MODEL_LABEL, item.deployment)


def new_item(ticket: str, request: bpb.SubmitRequest) -> bpb.Item:
    """One that was submitted at this moment."""
    item = bpb.Item(
        ticket=ticket,
        state=bpb.QUEUED,
        deployment=request.deployment,
        tenant=request.tenant,
        priority=request.priority,
        labels=dict(request.labels),
    )
    item.submitted.GetCurrentTime()
    if request.deadline_s:
        item.deadline.FromMicroseconds(round((time.time() + request.deadline_s) * 1_000_000))
    return item


def queued_request(name: QueuedId, item: bpb.Item) -> QueuedRequest:
    path = f"{PREFIX}/{name}"
    return {
        "id": str(name),
        "object": "async.request",
        "ticket": name.sdk_text,
        "status": bpb.State.Name(item.state).lower(),  # type: ignore[typeddict-item]
        "model": model_of(item),
        "created_at": _time(item, "submitted") or 0,
        "started_at": _time(item, "started"),
        "ended_at": _time(item, "ended"),
        "deadline_at": _time(item, "deadline"),
        "priority": bpb.Priority.Name(item.priority or bpb.DEFAULT).lower(),  # type: ignore[typeddict-item]
        "attempts": item.attempts,
        "progress": item.progress,
        "labels": {label: value for label, value in item.labels.items() if not label.startswith(OWN_LABELS)},
        "reason": item.reason or None,
        "error": error_told(item),
        "links": {
            "self": path,
            "result": f"{path}/result",
            "events": f"{path}/events",
            "cancel": f"{path}/cancel",
        },
    }


def error_told(item: bpb.Item) -> ErrorObject | None:
    """The replica's own error object where it answered with one."""
    error = error_of(item)
    if error is None:
        return None
    own = _own_error(item.result.http.body) if item.result.HasField("http") else None
    return own or error_object(no_result(item, error) or error)["error"]


class NoResult(MeshError):
    """The item has ended without an answer."""

    http_status = 409
    retry_after_s = None

    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


def no_result(item: bpb.Item, error: MeshError) -> NoResult | None:
    """None for one that has an answer, even where that is an error."""
    if item.state not in (bpb.DEAD, bpb.CANCELLED, bpb.EXPIRED):
        return None
    return NoResult(error.message, bpb.State.Name(item.state).lower())


def _own_error(body: bytes) -> ErrorObject | None:
    try:
        value: Any = json.loads(body)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    texts = {name: str(error[name]) if error.get(name) is not None else None for name in ("param", "code")}
    return {
        "message": error["message"],
        "type": str(error.get("type", "server_error")),
        "param": texts["param"],
        "code": texts["code"],
    }


def _time(item: bpb.Item, name: str) -> int | None:
    stamp = getattr(item, name)
    return int(stamp.seconds) if item.HasField(name) else None
