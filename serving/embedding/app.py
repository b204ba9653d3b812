"""OpenAI's HTTP protocol over one embedding model: `POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from serving.embedding.embedder import Vectors
from serving.embedding.inputs import InputRefused
from serving.embedding.service import Embedded, EmbeddingService
from serving.openai.checked import checked, ignored_fields
from serving.openai.embeddings import Embedding, EmbeddingRequest, EmbeddingUsage
from serving.openai.errors import InvalidRequest
from serving.openai.operations import EMBEDDINGS
from serving.openai.service_tier import CLASS_HEADER, is_batch
from serving.openai.sse import to_json
from serving.openai_http.application import build_application
from serving.openai_http.service import check_model, named_ignored
from serving.wire import Wire

_WRITTEN_HERE: Final = 16  # vectors; to write more keeps the loop from other requests
_BATCH_PLACES: Final = 0.5  # where so many of all run, no request of the class batch is let in


def build_app(service: EmbeddingService, registry: CollectorRegistry) -> FastAPI:
    """An ASGI application over a model whose life stays the caller's."""
    return build_application(service, registry, [EMBEDDINGS], {EMBEDDINGS.path: embeddings})


async def embeddings(service: EmbeddingService, wire: Wire, body: dict[str, Any]) -> None:
    request = checked(EmbeddingRequest, body, {})
    check_model(service, request.model)
    _check_dimensions(service, request.dimensions)
    for name, value in named_ignored(ignored_fields(request, body, {})).items():
        wire.add_header(name, value)
    batch = is_batch(wire.header(CLASS_HEADER.encode()))
    with service.inference.admit(share=_BATCH_PLACES if batch else 1.0, batch=batch):
        embedded = await _embedded(service, request, batch=batch)
        as_base64 = request.encoding_format == "base64"
        if len(embedded.vectors) <= _WRITTEN_HERE:
            answer = _written(embedded, request.model, as_base64)
        else:
            answer = await asyncio.to_thread(_written, embedded, request.model, as_base64)
        await wire.answer_bytes(200, answer, "application/json")


def _check_dimensions(service: EmbeddingService, wanted: int | None) -> None:
    has = service.core.dimension
    if wanted is not None and wanted != has:
        raise InvalidRequest(
            f"`dimensions`: the vectors of `{service.model}` have {has}; {wanted} are not supported: a part of a "
            "vector need not mean anything. Leave `dimensions` out",
            param="dimensions",
            error_code="unsupported_value",
        )


async def _embedded(service: EmbeddingService, request: EmbeddingRequest, *, batch: bool) -> Embedded:
    inputs = request.inputs
    try:
        return await service.core.embed(inputs, cut=request.truncate, batch=batch)
    except InputRefused as error:
        several = len(inputs) > 1 or inputs[0] is not request.input
        param = f"input[{error.place}]" if several and not _is_tokens(request.input) else "input"
        raise InvalidRequest(f"`{param}` {error.message}", param=param, error_code=error.error_code) from error


def _is_tokens(given: object) -> bool:
    """The tokens of one text, whose items are no inputs of their own."""
    return isinstance(given, list) and isinstance(given[0], int)


def _written(embedded: Embedded, model: str, as_base64: bool) -> bytes:
    """An `EmbeddingList`, vector by vector, so that other threads have their turn between them."""
    items = b",".join(to_json(_item(index, row, as_base64)) for index, row in enumerate(embedded.vectors))
    usage: EmbeddingUsage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return b'{"object":"list","data":[%s],"model":%s,"usage":%s}' % (items, to_json(model), to_json(usage))


def _item(index: int, vector: Vectors, as_base64: bool) -> Embedding:
    written = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
    return {"object": "embedding", "index": index, "embedding": written}
