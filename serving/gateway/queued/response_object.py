"""A background response from the item that it is: its object, and the numbers of its events. Pure.

Source: https://platform.openai.com/docs/guides/background.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from serving._proto import broker_pb2 as bpb
from serving.gateway.queued.following import data_of
from serving.gateway.queued.ids import QueuedId
from serving.gateway.queued.objects import error_told, model_of
from serving.openai.response_objects import ResponseObject, Status, begun_response
from serving.openai.responses import ResponseRequest

BACKGROUND_PATH: Final = "/v1/responses"
EVENTS_OF_AN_ATTEMPT: Final = 1_000_000
HEAD: Final = 2  # events that are told before a replica has begun: created, queued
_PREAMBLE: Final = 2  # of a replica's own: created, in_progress; nothing of an answer
_STATUS: Final[dict[int, Status]] = {
    bpb.QUEUED: "queued",
    bpb.RUNNING: "in_progress",
    bpb.CANCELLED: "cancelled",
    bpb.FAILED: "failed",
    bpb.DEAD: "failed",
    bpb.EXPIRED: "failed",
}


def response_of(name: QueuedId, item: bpb.Item, request: ResponseRequest | None = None) -> ResponseObject:
    """Its answer where it has one. Before, what it repeats of its request is only known with the request."""
    if item.state == bpb.SUCCEEDED:
        return of_background(name, _last_response(item.result.http.body))
    asked = request or ResponseRequest(model=model_of(item), input="")
    made = begun_response(asked, name=name.response, created=item.submitted.seconds, model=model_of(item))
    made["status"] = _STATUS[item.state]
    if made["status"] == "failed":
        told = error_told(item)
        made["error"] = {"code": "server_error", "message": told["message"] if told else item.reason}
    return of_background(name, made)


def of_background(name: QueuedId, response: ResponseObject) -> ResponseObject:
    """Under the id by which it can be asked for."""
    return {**response, "id": name.response, "background": True, "store": True}


def event_of(name: QueuedId, data: bytes, attempt: int) -> dict[str, Any] | None:
    """An event of a replica as one of the background response; None for the one that is told before.

    Numbers grow over all attempts, so that a number says of which attempt it is.
    """
    event: dict[str, Any] = json.loads(data)
    own = int(event.get("sequence_number", 0))
    if own == 0:
        return None
    if "response" in event:
        event["response"] = of_background(name, event["response"])
    event["sequence_number"] = own + 1 + (attempt - 1) * EVENTS_OF_AN_ATTEMPT
    return event


def attempt_of(number: int) -> int | None:
    """Of which attempt the answer's event with that number is; None for those that every attempt has."""
    attempt, own = divmod(number, EVENTS_OF_AN_ATTEMPT)
    return attempt + 1 if own > _PREAMBLE else None


def _last_response(body: bytes) -> ResponseObject:
    """Of a stream's last event, or of an answer in one."""
    text = body.strip()
    if text.startswith(b"{"):
        return cast(ResponseObject, json.loads(text))
    for event in reversed(text.split(b"\n\n")):
        data = data_of(event)
        if data and "response" in (value := json.loads(data)):
            return cast(ResponseObject, value["response"])
    raise ValueError("the stream of a response has ended without one")
