"""What gateways answer about queued requests, for their OpenAPI documents."""

from __future__ import annotations

from typing import Final

from pydantic import JsonValue

from serving.gateway.queued.kserve_json import InferBody
from serving.gateway.queued.objects import INFER, PREFIX, QueuedRequest
from serving.gateway.queued.options import HEADERS
from serving.gateway.queued.query import SECONDS
from serving.openai.chat import UNDONE_CHAT, ChatCompletionRequest
from serving.openai.completions import UNDONE_COMPLETIONS, CompletionRequest
from serving.openai.embeddings import EmbeddingRequest
from serving.openai.openapi import Operation, Parameter
from serving.openai.operations import RESPONSES
from serving.openai.response_objects import ResponseEvent, ResponseObject
from serving.openai.responses import UNDONE_AT_GATEWAYS, UNDONE_RESPONSES, GatewayResponseRequest, ResponseRequest

_SUBMIT: Final = (400, 404, 408, 413, 429, 500, 503, 504)
_LOOK: Final = (400, 404, 408, 413, 503, 504)
_WAIT: Final = Parameter("wait", "Seconds to wait for its end, at most 60.", f"^{SECONDS}$")
_FLAG: Final = "^(true|false)$"
_QUEUED: Final = "Keeps a request until a replica has room"


def _submission(path: str, name: str, request: type, undone: object = None) -> Operation:
    return Operation(
        f"{PREFIX}{path}",
        f"async.{name}",
        _QUEUED,
        request,
        QueuedRequest,
        errors=_SUBMIT,
        undone=undone or {},  # type: ignore[arg-type]
        good=(202,),
        headers=HEADERS,
    )


GATEWAY_RESPONSES: Final = Operation(
    RESPONSES.path,
    RESPONSES.name,
    RESPONSES.summary,
    GatewayResponseRequest,
    ResponseObject,
    ResponseEvent,
    errors=_SUBMIT,
    undone=UNDONE_AT_GATEWAYS,
    headers=tuple(Parameter(one.name, f"With `background`: {one.description}") for one in HEADERS),
)
QUEUED: Final = (
    _submission("/chat/completions", "chat.completions", ChatCompletionRequest, UNDONE_CHAT),
    _submission("/completions", "completions", CompletionRequest, UNDONE_COMPLETIONS),
    _submission("/embeddings", "embeddings", EmbeddingRequest),
    _submission("/responses", "responses", ResponseRequest, UNDONE_RESPONSES),
    _submission(INFER, "infer", InferBody),
    Operation(f"{PREFIX}/{{id}}", "async.get", "A queued request", answer=QueuedRequest, errors=_LOOK, query=(_WAIT,)),
    Operation(
        f"{PREFIX}/{{id}}",
        "async.delete",
        "Cancels a queued request, as POST .../cancel does; one that has ended stays as it is",
        answer=QueuedRequest,
        errors=_LOOK,
        asked="delete",
    ),
    Operation(
        f"{PREFIX}/{{id}}/cancel",
        "async.cancel",
        "Cancels a queued request; one that has ended stays as it is",
        answer=QueuedRequest,
        errors=_LOOK,
        asked="post",
    ),
    Operation(
        f"{PREFIX}/{{id}}/result",
        "async.result",
        "What the replica answered, status and body; 202 with the request while there is none",
        answer=JsonValue,
        errors=(*_LOOK, 409),
        good=(200, 202),
        query=(_WAIT, Parameter("binary", "Tensors in KServe's binary form.", _FLAG)),
    ),
    Operation(
        f"{PREFIX}/{{id}}/events",
        "async.events",
        "A queued request as it goes on: status, part, attempt, end",
        answer=JsonValue,
        errors=_LOOK,
        headers=(Parameter("last-event-id", "Goes on after this event.", r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$"),),
        events=True,
    ),
    Operation(
        f"{RESPONSES.path}/{{id}}",
        "responses.retrieve",
        "A response in the background",
        answer=ResponseObject,
        chunk=ResponseEvent,
        errors=_LOOK,
        query=(
            Parameter("stream", "Its events instead.", _FLAG),
            Parameter("starting_after", "With `stream`: only events with a higher `sequence_number`.", "^[0-9]{1,15}$"),
            Parameter("include_obfuscation", "Nothing is obfuscated.", _FLAG),
        ),
    ),
    Operation(
        f"{RESPONSES.path}/{{id}}/cancel",
        "responses.cancel",
        "Cancels a response in the background; one that has ended stays as it is",
        answer=ResponseObject,
        errors=_LOOK,
        asked="post",
    ),
)
