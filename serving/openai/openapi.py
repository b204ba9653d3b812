"""The OpenAPI document of a server: the requests and answers that are really read and written. Pure.

Source: https://spec.openapis.org/oas/v3.2.0 (the first one that can say what a stream of events holds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from serving.openai.checked import RequestModel
from serving.openai.errors import ErrorAnswer

_REF: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_FORM: Final = "multipart/form-data"
ERRORS: Final[Mapping[int, str]] = {
    400: "The request is wrong; `param` names the field.",
    404: "There is no such model, or no such request, here.",
    409: "It has ended, is in use, or its idempotency key means another one.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    416: "The range begins behind the end.",
    429: "All is full; `Retry-After` says when to come back.",
    500: "A fault of the server, logged under the id in the message.",
    501: "Not supported here.",
    503: "Nobody takes requests now: draining, starting, or failed.",
    504: "The time of `x-request-timeout` is over.",
    507: "The disk is full.",
}
_HEADERS: Final = {
    "x-request-timeout": ("Seconds until the last byte of the answer; then the generation ends.", "number"),
    "x-request-id": ("Comes back in the answer, and stands in logs.", "string"),
    "traceparent": ("W3C trace context.", "string"),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a query, or a header; it may be left out, and may stand there once."""

    name: str
    description: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one path takes and gives. `request` None: it has no body. `chunk`: what events hold, where it streams.

    `answer` None: text of `media_type`. `errors` are statuses of `ERRORS`, `undone` fields that nothing follows
    with the values that may be given nevertheless. `asked` is the method where it is none of the usual ones, `good`
    are the statuses of an answer, `headers` are those that only this one reads. With `events` every answer is a stream,
    with `form` the request is a form with a file.
    """

    path: str
    name: str
    summary: str
    request: type[RequestModel] | None = None
    answer: Any = None
    chunk: Any = None
    media_type: str = _JSON
    errors: Sequence[int] = ()
    undone: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    query: Sequence[Parameter] = ()
    asked: Literal["post", "delete"] | None = None
    good: Sequence[int] = (200,)
    headers: Sequence[Parameter] = ()
    events: bool = False
    form: bool = False

    @property
    def method(self) -> Literal["get", "post", "delete"]:
        return self.asked or ("get" if self.request is None else "post")


def document(title: str, version: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """A whole OpenAPI 3.2 document."""
    kinds: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        ("error", "serialization", TypeAdapter(ErrorAnswer))
    ]
    for one in operations:
        if one.request is not None:
            kinds.append((f"{one.name} request", "validation", TypeAdapter(one.request)))
        for what, kind in (("answer", one.answer), ("chunk", one.chunk)):
            if kind is not None:
                kinds.append((f"{one.name} {what}", "serialization", TypeAdapter(kind)))
    made, definitions = TypeAdapter.json_schemas(kinds, ref_template=_REF)
    schemas = {name: schema for (name, _), schema in made.items()}
    named = definitions.get("$defs", {})
    for one in operations:
        if one.request is not None:
            fields = named[one.request.__name__]["properties"]
            fields.update({name: _undone(values) for name, values in one.undone.items()})
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = _described(one, schemas)
    return {
        "openapi": "3.2.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": named},
    }


def _undone(values: Sequence[Any]) -> dict[str, Any]:
    return {"enum": [*values, None], "description": "Not supported: only what asks for nothing can be given."}


def _described(one: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.name,
        "parameters": [
            *_path_parameters(one.path),
            *(_parameter("query", each) for each in one.query),
            *(_header_parameters() if one.request else ()),
            *(_parameter("header", each) for each in one.headers),
        ],
        "responses": {str(status): _good(one, schemas) for status in one.good},
    }
    if one.request is not None:
        asked = {"schema": schemas[f"{one.name} request"]}
        made["requestBody"] = {"required": True, "content": {_FORM if one.form else _JSON: asked}}
    for status in one.errors:
        content = {_JSON: {"schema": schemas["error"]}}
        made["responses"][str(status)] = {"description": ERRORS[status], "content": content}
    return made


def _good(one: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    if one.answer is None:
        return {"description": one.summary, "content": {one.media_type: {"schema": {"type": "string"}}}}
    if one.events:
        return {"description": "Events.", "content": {_EVENTS: {"itemSchema": _event(schemas[f"{one.name} answer"])}}}
    content: dict[str, Any] = {_JSON: {"schema": schemas[f"{one.name} answer"]}}
    description = "The answer."
    if one.chunk is not None:
        content[_EVENTS] = {"itemSchema": _event(schemas[f"{one.name} chunk"])}
        description = "The answer or, where `stream` is true, events."
    return {"description": description, "content": content}


def _event(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of a stream: `data` is JSON, or `[DONE]` at the end of chats and completions."""
    text = {"type": "string", "contentMediaType": _JSON, "contentSchema": data}
    return {"type": "object", "required": ["data"], "properties": {"data": text, "event": {"type": "string"}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _parameter(place: Literal["query", "header"], one: Parameter) -> dict[str, Any]:
    schema = {"type": "string"} | ({"pattern": one.pattern} if one.pattern else {})
    return {"name": one.name, "in": place, "description": one.description, "schema": schema}


def _header_parameters() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": text, "schema": {"type": kind}}
        for name, (text, kind) in _HEADERS.items()
    ]
