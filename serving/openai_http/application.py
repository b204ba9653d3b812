"""The ASGI application around one model: which path leads where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import MeshError, NotFound, Unavailable
from serving.openai.docs_page import docs_page
from serving.openai.errors import InvalidRequest, ModelNotFound, error_object, retry_after_s, status_of
from serving.openai.models import model_list, model_object
from serving.openai.openapi import Operation, document
from serving.openai.operations import OPERATIONAL
from serving.openai_http.exchange import Exchange, Handler, S
from serving.openai_http.service import ModelService

_PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


class _WrongModel(NotFound):
    """The path is one of OpenAI's, but not one for this kind of model."""

    param = "model"
    error_code = "unsupported_model"


def build_application(
    service: S,
    registry: CollectorRegistry,
    described: Sequence[Operation],
    handlers: Mapping[str, Handler[S]],
    *,
    on_shutdown: Callable[[], None] = lambda: None,
) -> FastAPI:
    """With a path for each of `described`, whose handler has its name, and those that all models have.

    `on_shutdown` is called when its server ends.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        on_shutdown()

    app = _Application(lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    for one in described:
        _add(app, service, one, handlers[one.path])
    app.add_exception_handler(HTTPException, _no_route(service, [one.path for one in described]))
    _add_document(
        app, document(f"{service.model}: OpenAI-compatible API", service.revision, [*described, *OPERATIONAL])
    )
    _add_models(app, service)
    _add_operations(app, service, registry)
    return app


class _Application(FastAPI):
    """What its models are asked goes to them past FastAPI's layers, which cost a quarter of a short answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.exchanges: dict[str, ASGIApp] = {}  # by their paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            exchange = self.exchanges.get(scope["path"])
            if exchange is not None:
                await exchange(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _add(app: _Application, service: S, operation: Operation, handle: Handler[S]) -> None:
    exchange = app.exchanges[operation.path] = Exchange(service, operation.name, handle)

    async def endpoint(_: Request) -> Response:
        return exchange

    # The route is for those who ask wrongly: other methods, a slash at the end.
    app.add_api_route(operation.path, endpoint, methods=["POST"], response_model=None)


def _add_document(app: FastAPI, described: dict[str, Any]) -> None:
    app.openapi = lambda: described  # type: ignore[method-assign]

    @app.get("/docs", response_model=None)
    async def docs() -> Response:
        return HTMLResponse(docs_page(described))


def _add_models(app: FastAPI, service: ModelService) -> None:
    def told(name: str) -> Any:
        return model_object(name, created=service.created, context_tokens=service.context_tokens)

    @app.get("/v1/models", response_model=None)
    async def models() -> Response:
        return JSONResponse(model_list([told(name) for name in service.names]))

    @app.get("/v1/models/{model:path}", response_model=None)
    async def model(model: str) -> Response:
        if model not in service.names:
            return _refused(ModelNotFound(model, service.model))
        return JSONResponse(told(model))


def _add_operations(app: FastAPI, service: ModelService, registry: CollectorRegistry) -> None:
    @app.get("/health", response_model=None)
    async def health() -> Response:
        if service.failure:
            return _refused(Unavailable(service.failure))
        if service.draining():
            return _refused(Unavailable("this replica is draining"))
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _refused(error: MeshError, headers: Mapping[str, str] | None = None, status: int = 0) -> Response:
    after = retry_after_s(error)
    own = {"retry-after": str(after)} if after else {}
    return JSONResponse(error_object(error), status or status_of(error), {**(headers or {}), **own})


def _no_route(service: ModelService, paths: Sequence[str]) -> Callable[[Request, Exception], Any]:
    """Unknown paths and methods, in OpenAI's words."""

    async def answer(request: Request, error: Exception) -> Response:
        path = request.url.path
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        refusal: MeshError = InvalidRequest(
            f"there is no {request.method} {path} here; /docs shows what there is", error_code="unknown_url"
        )
        if path in _PATHS and path not in paths:
            served = ", ".join(one for one in paths if one.startswith("/v1/"))
            refusal = _WrongModel(f"the model `{service.model}` is not served at {path}, but at {served}")
        return _refused(refusal, headers, status)

    return answer
