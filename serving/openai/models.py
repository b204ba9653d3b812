"""`GET /v1/models`."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict


class Model(TypedDict):
    """One model; `created` is a unix time in seconds, `max_model_len` (as vLLM says it) its context in tokens.

    A gateway does not know the context.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: NotRequired[int]


class ModelList(TypedDict):
    """All models of an endpoint."""

    object: Literal["list"]
    data: list[Model]


def model_object(name: str, *, created: int, context_tokens: int) -> Model:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "mesh",
        "max_model_len": context_tokens,
    }


def model_list(models: list[Model]) -> ModelList:
    return {"object": "list", "data": models}
