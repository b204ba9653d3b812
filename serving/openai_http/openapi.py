"""The OpenAPI document: the requests and answers that are really read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from serving.openai.checked import RequestModel
from serving.openai.errors import ErrorAnswer

_REF: Final = "#/components/schemas/{model}"
_ERRORS: Final = {
    400: "The request is wrong; `param` names the field.",
    404: "There is no such model here.",
    413: "The body is too large.",
    429: "The replica is full; `Retry-After` says when to come back.",
    500: "A fault of the server, logged under the id in the message.",
    503: "The replica is draining, or its engine ended.",
}


@dataclass(frozen=True, slots=True)
class Described:
    """A path that takes a JSON object. `chunk` is what its events hold, where it streams."""

    path: str
    method: str
    summary: str
    request: type[RequestModel]
    answer: Any
    chunk: Any = None

    @property
    def extra(self) -> dict[str, Any]:
        schema = {"$ref": _REF.format(model=self.request.__name__)}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        good: dict[str, Any] = {"model": self.answer, "description": "The answer."}
        if self.chunk is not None:
            good["description"] = f"The answer or, where `stream` is true, events of {self.chunk.__name__}."
            good["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        errors: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()
        }
        return {200: good, **errors}


def document(app: FastAPI, described: Sequence[Described]) -> dict[str, Any]:
    """Made once. FastAPI knows the answers; the requests, which it does not read, are added."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        requests = [(item.request, "validation") for item in described]
        _, schemas = models_json_schema(requests, ref_template=_REF)  # type: ignore[arg-type]
        made.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        app.openapi_schema = made
    return app.openapi_schema
