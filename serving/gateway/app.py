"""The gateway's HTTP interface: which requests there are, and what becomes of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from serving.errors import NotFound, Unavailable
from serving.gateway.asked import SESSION_HEADER, Asked, asked, leads_to, session_of
from serving.gateway.catalog import Catalog, ModelKey, Offer, is_ready
from serving.gateway.follower import CatalogFollower
from serving.gateway.forwarding import Forwarder, Request
from serving.gateway.instruments import Instruments
from serving.gateway.kserve_rest import PREFIX as KSERVE
from serving.gateway.kserve_rest import KserveRest
from serving.gateway.passing import Broken
from serving.gateway.route_follower import RouteFollower
from serving.gateway.routed import RouteForwarder
from serving.observe import get_logger, log_fields
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import read_object
from serving.openai.sse import to_json
from serving.python_deployment.failure import at_edge
from serving.wire import ClientGone, Wire

_LOG: Final = get_logger(__name__)
_STDLIB_LOG: Final = logging.getLogger(__name__)
FORWARDED: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_MODELS: Final = "/v1/models"
_WRITE_TIMEOUT_S: Final = 60.0  # of a client that takes nothing of its answer
_CLIENT_GONE: Final = 499
# Of the client's headers replicas see these: nothing that authenticates it, or belongs to its connection.
_PASSED: Final = frozenset({b"content-type", b"accept", b"traceparent", b"tracestate", b"user-agent"})


_PARSED_APART: Final = 256 << 10  # bytes: larger bodies would keep the loop from other requests


class _WrongMethod(InvalidRequest):
    http_status = 405


class GatewayApp:
    """An ASGI application. Belongs to one event loop."""

    def __init__(
        self,
        follower: CatalogFollower,
        routes: RouteFollower,
        forwarder: Forwarder,
        routed: RouteForwarder,
        kserve: KserveRest,
        instruments: Instruments,
        registry: CollectorRegistry,
        *,
        max_body_bytes: int,
        max_requests: int,
        created: int,
    ) -> None:
        """`created` is the unix time that models are said to be of."""
        self.draining = False
        self._follower = follower
        self._routes = routes
        self._forwarder = forwarder
        self._routed = routed
        self._kserve = kserve
        self._instruments = instruments
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._max_requests = max_requests
        self._running = 0
        self._created = created
        self._plain: dict[str, Callable[[Wire], Awaitable[None]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            _MODELS: self._models,
        }

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
            known = call.path in FORWARDED or call.path in self._plain or call.path == KSERVE
            path = call.path if known else "other"
            self._instruments.requests.labels(path, call.model, str(wire.status or _CLIENT_GONE)).inc()

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
        if path == KSERVE or path.startswith(f"{KSERVE}/"):
            await self._answer_kserve(call, wire, scope)
        elif path in FORWARDED:
            call.want(wire, "POST")
            await self._forward(call, wire, scope)
        elif path in self._plain:
            call.want(wire, "GET", "HEAD")
            await self._plain[path](wire)
        elif path.startswith(f"{_MODELS}/"):
            call.want(wire, "GET", "HEAD")
            await self._model(path.removeprefix(f"{_MODELS}/"), wire)
        else:
            raise NotFound(f"there is no {path} here")

    async def _answer_kserve(self, call: _Call, wire: Wire, scope: Scope) -> None:
        path, call.path = call.path, KSERVE  # for metrics: names of models are in it
        leaving = Unavailable("this gateway is draining") if self.draining else None
        call.model = await self._kserve.answer(path, wire, scope, refuse=leaving or self._full())

    def _full(self) -> Unavailable | None:
        if self._running <= self._max_requests:
            return None
        return Unavailable(f"this gateway is full: {self._max_requests} requests run (max_requests)")

    async def _forward(self, call: _Call, wire: Wire, scope: Scope) -> None:
        if (full := self._full()) is not None:
            raise full
        data = await wire.read_body(self._max_body_bytes)
        large = len(data) > _PARSED_APART
        session = wire.header(SESSION_HEADER)
        found, data = await asyncio.to_thread(self._named, data, session) if large else self._named(data, session)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"] if key in _PASSED}
        headers["x-request-id"] = wire.request_id
        request = Request(found.keys[0], call.path, data, headers, named=found.keys[0].model)
        del data  # whoever sends it lets go of it when the answer begins
        if found.route:
            sending = self._routed.forward(found, request, self._rename, wire)
        else:
            sending = self._forwarder.forward(request, wire)
        try:
            await wire.unless_gone(sending)
        finally:
            call.model = str(request.key)

    def _named(self, data: bytes, session: str) -> tuple[Asked, bytes]:
        """Whom a body is for, and the body as the first of them wants it: with the model's own name."""
        body = read_object(data, limit_bytes=self._max_body_bytes)
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is missing: the name of a model of /v1/models", param="model")
        found = asked(name, self._known(), self._routes.routes, session_of(session, body))
        own = found.keys[0].model
        if own != name:
            data = to_json({**body, "model": own})
        return found, data

    def _known(self) -> Catalog:
        """Raises `Unavailable` while nothing is known."""
        if not (self._follower.synced and self._routes.synced):
            raise Unavailable("the models are not known yet: etcd has not answered since this gateway started")
        return self._follower.catalog

    # ------------------------------------------------------------------------------------------------ answered here

    async def _health(self, wire: Wire) -> None:
        status = 503 if self.draining or not (self._follower.synced and self._routes.synced) else 200
        state = "draining" if self.draining else "ready" if status == 200 else "starting"
        await wire.answer(status, {"status": state, "discovery_stale": self._follower.stale})

    async def _metrics(self, wire: Wire) -> None:
        await wire.answer_bytes(200, await asyncio.to_thread(generate_latest, self._registry), CONTENT_TYPE_LATEST)

    async def _models(self, wire: Wire) -> None:
        catalog, routes = self._follower.catalog, self._routes.routes
        offers = [offer for offer in catalog.offers() if is_ready(offer)]
        listed = [self._described(str(offer.key) if offer.name in routes else offer.name, offer) for offer in offers]
        leading = ((name, leads_to(route, catalog)) for name, route in routes.items())
        listed += [self._described(name, offer, route=True) for name, offer in leading if offer is not None]
        await wire.answer(200, {"object": "list", "data": listed})

    async def _model(self, name: str, wire: Wire) -> None:
        catalog, route = self._known(), self._routes.routes.get(name)
        key = asked(name, catalog, {}, "").keys[0] if route is None else None
        offer = catalog.get(key) if key is not None else leads_to(route, catalog) if route is not None else None
        if offer is None:
            raise Unavailable(f"no model of the route `{name}` has a replica that takes requests now")
        await wire.answer(200, self._described(name, offer, route=route is not None))

    def _described(self, name: str, offer: Offer, *, route: bool = False) -> dict[str, Any]:
        owner = f"{offer.key.namespace}/{offer.key.application}"
        described = {"id": name, "object": "model", "created": self._created, "owned_by": owner}
        return described | ({"root": str(offer.key)} if route else {})

    async def _rename(self, request: Request, key: ModelKey) -> None:
        """The body of a request that goes to another model than the one that it names."""
        if request.named != key.model:
            large = len(request.body) > _PARSED_APART
            body, own = request.body, key.model
            request.body = await asyncio.to_thread(_renamed, body, own) if large else _renamed(body, own)
            request.named = key.model


def _renamed(data: bytes, model: str) -> bytes:
    return to_json({**read_object(data, limit_bytes=len(data)), "model": model})


@dataclass(slots=True)
class _Call:
    """One request. `model` is its name where that is known, for metrics: names that clients make up are not."""

    path: str
    method: str
    model: str = ""

    def want(self, wire: Wire, *methods: str) -> None:
        if self.method not in methods:
            wire.add_header("allow", ", ".join(methods))
            text = f"{self.path} takes {methods[0]}, not {self.method}"
            raise _WrongMethod(text, error_code="method_not_allowed")
