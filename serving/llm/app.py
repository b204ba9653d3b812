"""OpenAI's HTTP protocol over one engine: which path leads where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from serving.errors import MeshError, Unavailable
from serving.llm.engine import Engine
from serving.llm.exchange import Exchange, Handler
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import Admission, Limits
from serving.llm.openapi import Described, described_routes, document
from serving.llm.prompts import Prompts
from serving.llm.routes_chat import chat
from serving.llm.routes_completions import completions
from serving.llm.routes_responses import responses
from serving.llm.routes_tokens import detokenize, tokenize
from serving.llm.service import LlmService
from serving.openai.errors import InvalidRequest, ModelNotFound, error_object, retry_after_s, status_of
from serving.openai.models import model_list, model_object

_HANDLERS: dict[str, Handler] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


def build_app(
    engine: Engine,
    model_name: str,
    limits: Limits,
    *,
    revision: str,
    registry: CollectorRegistry,
    aliases: Sequence[str] = (),
    replica: str = "",
    draining: Callable[[], bool] = lambda: False,
    instruments: LlmInstruments | None = None,
) -> FastAPI:
    """An ASGI application over a started engine, whose life stays the caller's.

    `replica` goes into the header `x-mesh-replica`; while `draining()`, new requests are answered 503.
    """
    admission = Admission(limits)
    instruments = instruments or LlmInstruments(registry)
    instruments.watch(engine.load, admission)
    service = LlmService(
        engine=engine,
        model=model_name,
        admission=admission,
        instruments=instruments,
        prompts=Prompts(engine),
        revision=revision,
        aliases=tuple(aliases),
        replica=replica,
        draining=draining,
    )

    app = _application(service)
    _add_models(app, service)
    _add_operations(app, service, registry)
    return app


def _application(service: LlmService) -> FastAPI:
    """With the paths that take a JSON object."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.prompts.close()

    app = FastAPI(title=f"{service.model}: OpenAI-compatible API", version=service.revision, lifespan=lifespan)
    app.state.service = service
    for described in described_routes():
        _add(app, service, described, _HANDLERS[described.path])
    app.add_exception_handler(HTTPException, _no_route)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, service: LlmService, described: Described, handle: Handler) -> None:
    method = described.method

    async def endpoint(_: Request) -> Response:
        return Exchange(service, method, handle)

    app.add_api_route(
        described.path,
        endpoint,
        methods=["POST"],
        summary=described.summary,
        operation_id=method.replace(".", "_"),
        openapi_extra=described.extra,
        response_model=None,
        responses=described.responses,
    )


def _add_models(app: FastAPI, service: LlmService) -> None:
    def told(name: str) -> Any:
        return model_object(name, created=service.created, context_tokens=service.capabilities.context_tokens)

    @app.get("/v1/models", summary="The models that are served here", response_model=None)
    async def models() -> Response:
        return JSONResponse(model_list([told(name) for name in service.names]))

    @app.get("/v1/models/{model:path}", summary="One model", response_model=None)
    async def model(model: str) -> Response:
        if model not in service.names:
            return _refused(ModelNotFound(model, service.model))
        return JSONResponse(told(model))


def _add_operations(app: FastAPI, service: LlmService, registry: CollectorRegistry) -> None:
    @app.get("/health", summary="200 while requests are taken, 503 with the reason otherwise", response_model=None)
    async def health() -> Response:
        if service.engine.failure:
            return _refused(Unavailable(f"the engine failed: {service.engine.failure}"))
        if service.draining():
            return _refused(Unavailable("this replica is draining"))
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", summary="Numbers in Prometheus' text format", response_model=None)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _refused(error: MeshError) -> Response:
    after = retry_after_s(error)
    return JSONResponse(error_object(error), status_of(error), {"retry-after": str(after)} if after else None)


async def _no_route(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in OpenAI's words."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal = InvalidRequest(
        f"there is no {request.method} {request.url.path} here; /docs shows what there is", error_code="unknown_url"
    )
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(error_object(refusal), status, headers)
