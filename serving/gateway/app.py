"""The gateway's HTTP interface: which requests there are, and what becomes of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from serving._proto import records_pb2 as pb
from serving.access.estimate import answer_tokens, prompt_tokens
from serving.errors import InvalidArgument, MeshError, NotFound, Unavailable
from serving.gateway.balance import Balance
from serving.gateway.catalog import ModelKey, Offer, is_ready
from serving.gateway.demand import Demand
from serving.gateway.follower import CatalogFollower
from serving.gateway.forwarding import Forwarder, Request
from serving.gateway.instruments import Instruments
from serving.gateway.keys.gate import Gate
from serving.gateway.keys.refusals import ModelNotAllowed
from serving.gateway.keys.usage import REQUEST_HEADERS
from serving.gateway.passing import Broken
from serving.gateway.resuming import RESUMED_PATHS
from serving.observe import get_logger, log_fields
from serving.openai.docs_page import docs_page
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import PARSED_APART, read_object_apart
from serving.openai.openapi import document
from serving.openai.operations import GATEWAY
from serving.openai.sse import to_json
from serving.python_deployment.failure import at_edge
from serving.routing.llm_routing import SESSION_HEADER
from serving.version import VERSION
from serving.wire import TIMEOUT, ClientGone, Wire

_LOG: Final = get_logger(__name__)
_STDLIB_LOG: Final = logging.getLogger(__name__)
FORWARDED: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_MODELS: Final = "/v1/models"
_PROTECTED: Final = "/v1/"  # who is asked for a key, where keys are needed
_WRITE_TIMEOUT_S: Final = 60.0  # of a client that takes nothing of its answer
_CLIENT_GONE: Final = 499
# Of the client's headers replicas see these: nothing that authenticates it, or belongs to its connection.
_PASSED: Final = frozenset({b"content-type", b"accept", b"traceparent", b"tracestate", b"user-agent"})
_RESUME_STREAM: Final = b"x-mesh-resume-stream"
_LEAST_S: Final = 0.001  # what a replica is told of a deadline


class _WrongMethod(InvalidRequest):
    http_status = 405


class _NoSuchModel(NotFound):
    param = "model"
    error_code = "model_not_found"


class GatewayApp:
    """An ASGI application. Belongs to one event loop."""

    def __init__(
        self,
        follower: CatalogFollower,
        forwarder: Forwarder,
        instruments: Instruments,
        registry: CollectorRegistry,
        balance: Balance,
        *,
        max_body_bytes: int,
        max_requests: int,
        resume_streams: bool,
        created: int,
        gate: Gate | None = None,
    ) -> None:
        """`created` is the unix time that models are said to be of. Without `gate` nobody needs a key."""
        self._resume_streams = resume_streams
        self._cuts: set[asyncio.Future[MeshError]] = set()  # one for each request that runs
        self.draining = False
        self._follower = follower
        self._forwarder = forwarder
        self._instruments = instruments
        self._registry = registry
        self._balance = balance
        self._max_body_bytes = max_body_bytes
        self._max_requests = max_requests
        self._running = 0
        self._created = created
        self._gate = gate
        self._plain: dict[str, Callable[[_Call, Wire], Awaitable[None]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            _MODELS: self._models,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }

    def cut_off(self) -> None:
        """Ends what runs: streams with an error event, other answers with an error, or broken off."""
        if self._cuts:
            _LOG.warning("requests are cut off, as the drain timeout is over", running=len(self._cuts))
        for cut in self._cuts:
            if not cut.done():
                cut.set_result(Unavailable("this gateway ends, and its drain timeout is over; send the request again"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        wire = Wire(scope, receive, send, replica="", write_timeout_s=_WRITE_TIMEOUT_S)
        call = _Call(scope["path"], scope["method"])
        self._running += 1
        self._instruments.in_flight.inc()
        try:
            with log_fields(request=wire.request_id, trace_id=wire.trace_id):
                await self._answered(call, wire, scope)
        except ClientGone:
            self._instruments.cancelled.inc()
        finally:
            self._running -= 1
            self._instruments.in_flight.dec()
            path = call.path if call.path in FORWARDED or call.path in self._plain else "other"
            self._instruments.count(path, call.model, str(wire.status or _CLIENT_GONE))

    async def _answered(self, call: _Call, wire: Wire, scope: Scope) -> None:
        try:
            await self._route(call, wire, scope)
        except ClientGone:
            raise
        except Broken as error:  # its beginning is sent: what is left is to break off, which the client sees
            _LOG.warning("an answer is broken off", error=error.message)
            wire.abort()
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an error object
            await wire.refuse(at_edge(error, call.path, _STDLIB_LOG))

    async def _route(self, call: _Call, wire: Wire, scope: Scope) -> None:
        path = call.path
        if self._gate is not None and path.startswith(_PROTECTED):
            call.key = self._gate.holder(scope["headers"])
        if path in FORWARDED:
            call.want(wire, "POST")
            await self._forward(call, wire, scope)
        elif path in self._plain:
            call.want(wire, "GET", "HEAD")
            await self._plain[path](call, wire)
        elif path.startswith(f"{_MODELS}/"):
            call.want(wire, "GET", "HEAD")
            await self._model(call, path.removeprefix(f"{_MODELS}/"), wire)
        else:
            raise NotFound(f"there is no {path} here")

    async def _forward(self, call: _Call, wire: Wire, scope: Scope) -> None:
        if self._running > self._max_requests:
            raise Unavailable(f"this gateway is full: {self._max_requests} requests run (max_requests)")
        wire.time_left_s()  # a wrong one is refused before the body is read
        resumable = self._resumable(call.path, wire)
        data = await wire.read_body(self._max_body_bytes)
        body = await read_object_apart(data, limit_bytes=self._max_body_bytes)
        offer, data = self._named(data, body, call)
        demand = await self._demand(offer, call.path, body, wire, len(data))
        del body
        call.model = str(offer.key)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"] if key in _PASSED}
        headers["x-request-id"] = wire.request_id
        left_s = wire.time_left_s()
        if left_s is not None:
            headers[TIMEOUT.decode()] = f"{max(left_s, _LEAST_S):.3f}"
        request = Request(offer.key, call.path, data, headers, demand, resumable=resumable)
        del data  # whoever sends it lets go of it when the answer begins
        if self._gate is None or call.key is None:
            await self._run(request, wire)
            return
        self._gate.check(call.key, request.key)
        prompt = prompt_tokens(len(request.body))
        answer = answer_tokens(demand.answer_tokens, demand.choices)
        async with self._gate.admitted(call.key, wire, prompt_tokens=prompt, answer_tokens=answer) as usage:
            request.usage = usage
            request.headers.update(REQUEST_HEADERS)
            await self._run(request, wire)

    async def _run(self, request: Request, wire: Wire) -> None:
        """Until it is answered, the client has gone, its time is over, or it is cut off."""
        cut: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
        self._cuts.add(cut)
        try:
            await wire.unless_gone(self._forwarder.forward(request, wire), cut)
        finally:
            self._cuts.discard(cut)

    async def _demand(self, offer: Offer, path: str, body: dict[str, Any], wire: Wire, size: int) -> Demand:
        """Beside the event loop where it takes long."""
        asked = (offer, path, body, wire.header(SESSION_HEADER.encode()))
        if size > PARSED_APART:
            return await asyncio.to_thread(self._balance.demand, *asked)
        return self._balance.demand(*asked)

    def _resumable(self, path: str, wire: Wire) -> bool:
        said = wire.header(_RESUME_STREAM)
        if said not in ("", "true", "false"):
            raise InvalidRequest(
                f"{_RESUME_STREAM.decode()}: true or false is wanted, found {said[:40]!r}", error_code="invalid_value"
            )
        return path in RESUMED_PATHS and (said == "true" if said else self._resume_streams)

    def _named(self, data: bytes, body: dict[str, Any], call: _Call) -> tuple[Offer, bytes]:
        """Whom a body is for, and the body as a replica wants it: with the model's own name."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is missing: the name of a model of /v1/models", param="model")
        if not self._follower.synced:
            raise Unavailable("the models are not known yet: etcd has not answered since this gateway started")
        offer = self._find(name, call)
        if offer.key.model != name:
            data = to_json({**body, "model": offer.key.model})
        return offer, data

    def _find(self, name: str, call: _Call) -> Offer:
        """Raises OpenAI's errors for what the catalog refuses; they name no model that the key may not ask."""
        try:
            return self._follower.catalog.find(name, lambda key: self._may_ask(call, key))
        except NotFound as error:
            raise _NoSuchModel(error.message) from error
        except InvalidArgument as error:
            raise InvalidRequest(error.message, param="model", error_code="ambiguous_model") from error

    # ------------------------------------------------------------------------------------------------ answered here

    async def _health(self, _call: _Call, wire: Wire) -> None:
        status = 503 if self.draining or not self._follower.synced else 200
        state = "draining" if self.draining else "ready" if status == 200 else "starting"
        await wire.answer(status, {"status": state, "discovery_stale": self._follower.stale})

    async def _metrics(self, _call: _Call, wire: Wire) -> None:
        self._instruments.keep({str(offer.key) for offer in self._follower.catalog.offers()})
        await wire.answer_bytes(200, await asyncio.to_thread(generate_latest, self._registry), CONTENT_TYPE_LATEST)

    async def _openapi(self, _call: _Call, wire: Wire) -> None:
        await wire.answer(200, _document())

    async def _docs(self, _call: _Call, wire: Wire) -> None:
        await wire.answer_bytes(200, docs_page(_document()).encode(), "text/html; charset=utf-8")

    async def _models(self, call: _Call, wire: Wire) -> None:
        known = self._follower.catalog.offers()
        offers = [offer for offer in known if is_ready(offer) and self._may_ask(call, offer.key)]
        await wire.answer(200, {"object": "list", "data": [self._described(offer.name, offer) for offer in offers]})

    async def _model(self, call: _Call, name: str, wire: Wire) -> None:
        offer = self._find(name, call)
        if not self._may_ask(call, offer.key):
            raise ModelNotAllowed(name)
        await wire.answer(200, self._described(name, offer))

    def _may_ask(self, call: _Call, model: ModelKey) -> bool:
        return self._gate is None or call.key is None or self._gate.may_ask(call.key, model)

    def _described(self, name: str, offer: Offer) -> dict[str, Any]:
        owner = f"{offer.key.namespace}/{offer.key.application}"
        return {"id": name, "object": "model", "created": self._created, "owned_by": owner}


@cache
def _document() -> dict[str, Any]:
    return document("OpenAI-compatible API of a mesh", VERSION, GATEWAY)


@dataclass(slots=True)
class _Call:
    """One request. `model` is its name where that is known, for metrics: names that clients make up are not."""

    path: str
    method: str
    model: str = ""
    key: pb.ApiKey | None = None

    def want(self, wire: Wire, *methods: str) -> None:
        if self.method not in methods:
            wire.add_header("allow", ", ".join(methods))
            text = f"{self.path} takes {methods[0]}, not {self.method}"
            raise _WrongMethod(text, error_code="method_not_allowed")
