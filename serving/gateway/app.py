"""The gateway's HTTP interface: which requests there are, and what becomes of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from serving.access.estimate import answer_tokens, prompt_tokens
from serving.errors import MeshError, NotFound, Unavailable
from serving.gateway.asked import Asked, asked, leads_to, may_ask_all, session_of
from serving.gateway.balance import Balance, size_of
from serving.gateway.caching import Asking, Caching
from serving.gateway.call import Call
from serving.gateway.catalog import Catalog, ModelKey, Offer, is_ready
from serving.gateway.cuts import Cuts
from serving.gateway.demand import Demand
from serving.gateway.follower import CatalogFollower
from serving.gateway.forwarding import PASSED, Forwarder, Request
from serving.gateway.instruments import Instruments
from serving.gateway.keys.gate import Gate
from serving.gateway.keys.usage import REQUEST_HEADERS
from serving.gateway.kserve_rest import HEALTH as KSERVE_HEALTH
from serving.gateway.kserve_rest import PREFIX as KSERVE
from serving.gateway.kserve_rest import KserveRest, Terms
from serving.gateway.later import LATER, PATHS, LaterRequests
from serving.gateway.passing import Broken
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.operations import GATEWAY_RESPONSES
from serving.gateway.queued.service import RESPONSES
from serving.gateway.resuming import RESUMED_PATHS
from serving.gateway.route_follower import Routes
from serving.gateway.routed import RouteForwarder
from serving.gateway.splits import lookup_of
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
_CACHE: Final = "/v1/cache"
_PROTECTED: Final = "/v1/"  # who is asked for a key, where keys are needed
_WRITE_TIMEOUT_S: Final = 60.0  # of a client that takes nothing of its answer
_CLIENT_GONE: Final = 499
_RESUME_STREAM: Final = b"x-mesh-resume-stream"
_LEAST_S: Final = 0.001  # what a replica is told of a deadline


class GatewayApp:
    """An ASGI application. Belongs to one event loop."""

    def __init__(
        self,
        follower: CatalogFollower,
        routes: Routes,
        forwarder: Forwarder,
        routed: RouteForwarder,
        kserve: KserveRest,
        caching: Caching,
        later: LaterRequests,
        instruments: Instruments,
        registry: CollectorRegistry,
        balance: Balance,
        *,
        max_body_bytes: int,
        max_requests: int,
        resume_streams: bool,
        created: int,
        called: str,
        ended: Callable[[int, float], None],
        gate: Gate | None = None,
    ) -> None:
        """`created` is the unix time that models are said to be of. Without `gate` nobody needs a key.

        `called` is the word for it in errors; `ended` hears the status and the seconds of requests for models.
        """
        self._called = called
        self._ended = ended
        self._resume_streams = resume_streams
        self._cuts = Cuts()
        self.draining = False  # /health says so
        self.refusing = False  # takes no requests
        self._follower = follower
        self._routes = routes
        self._forwarder = forwarder
        self._routed = routed
        self._kserve = kserve
        self._caching = caching
        self._later = later
        self._instruments = instruments
        self._registry = registry
        self._balance = balance
        self._max_body_bytes = max_body_bytes
        self._max_requests = max_requests
        self._running = 0
        instruments.in_flight.set_function(lambda: self._running)
        self._created = created
        self._gate = gate
        self._plain: dict[str, Callable[[Call, Wire], Awaitable[None]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            _MODELS: self._models,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }

    def cut_off(self) -> None:
        """Ends what runs: streams with an error event, other answers with an error, or broken off."""
        if len(self._cuts):
            _LOG.warning("requests are cut off, as the drain timeout is over", running=len(self._cuts))
        self._cuts.all(f"this {self._called} ends, its drain timeout is over; send the request again")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        wire = Wire(scope, receive, send, replica="", write_timeout_s=_WRITE_TIMEOUT_S)
        call, began = Call(scope["path"], scope["method"]), time.monotonic()
        self._running += 1
        try:
            with log_fields(request=wire.request_id, trace_id=wire.trace_id):
                await self._answered(call, wire, scope)
        except ClientGone:
            self._instruments.cancelled.inc()
        finally:
            self._running -= 1
            known = call.path in FORWARDED or call.path in self._plain or call.path in (KSERVE, _CACHE, *PATHS)
            path, status = call.path if known else "other", wire.status or _CLIENT_GONE
            self._instruments.count(path, call.model, str(status))
            if call.model:
                self._ended(status, time.monotonic() - began)

    async def _answered(self, call: Call, wire: Wire, scope: Scope) -> None:
        try:
            await self._route(call, wire, scope)
        except ClientGone:
            raise
        except Broken as error:  # its beginning is sent: what is left is to break off, which the client sees
            _LOG.warning("an answer is broken off", error=error.message)
            wire.abort()
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an error object
            await wire.refuse(at_edge(error, call.path, _STDLIB_LOG))

    async def _route(self, call: Call, wire: Wire, scope: Scope) -> None:
        path = call.path
        if self._gate is not None and path.startswith(_PROTECTED):
            call.key = self._gate.holder(scope["headers"])
        if path == KSERVE or path.startswith(f"{KSERVE}/"):
            await self._answer_kserve(call, wire, scope)
        elif path in FORWARDED:
            call.want(wire, "POST")
            await self._forward(call, wire, scope)
        elif self._later.takes(path):
            await self._answer_later(call, wire, scope)
        elif path == _CACHE:
            call.want(wire, "DELETE")
            await self._remove(call, wire, scope)
        elif path in self._plain:
            call.want(wire, "GET", "HEAD")
            await self._plain[path](call, wire)
        elif path.startswith(f"{_MODELS}/"):
            call.want(wire, "GET", "HEAD")
            await self._model(call, path.removeprefix(f"{_MODELS}/"), wire)
        else:
            raise NotFound(f"there is no {path} here")

    async def _answer_kserve(self, call: Call, wire: Wire, scope: Scope) -> None:
        path, call.path = call.path, KSERVE  # for metrics: names of models are in it
        with self._cuts.one() as cut:
            await self._kserve.answer(path, wire, scope, lambda: self._terms(path, call, wire, scope, cut))

    def _terms(self, path: str, call: Call, wire: Wire, scope: Scope, cut: asyncio.Future[MeshError]) -> Terms:
        """Raises `InvalidApiKey`."""
        if self._gate is not None and not path.startswith(KSERVE_HEALTH):
            call.key = self._gate.holder(scope["headers"])
        refuse = self._refusal(wire, leaving=self.refusing)
        admitted = partial(self._admitted, call, wire)
        return Terms(refuse, self.draining, cut, self._allowed(call), admitted, call.ask)

    async def _answer_later(self, call: Call, wire: Wire, scope: Scope) -> None:
        if (refusal := self._refusal(wire, leaving=self.refusing)) is not None:
            raise refusal
        with self._cuts.one() as cut:
            await self._later.answer(Asker(call, wire, scope, self._gate, self._allowed(call), cut))

    def _refusal(self, wire: Wire, *, leaving: bool) -> Unavailable | None:
        """Why no request for a model is taken now."""
        if leaving:
            wire.add_header("connection", "close")  # whoever comes again on it would be refused again
            return Unavailable(f"this {self._called} is draining")
        if self._running <= self._max_requests:
            return None
        return Unavailable(f"this {self._called} is full: {self._max_requests} requests run (max_requests)")

    async def _forward(self, call: Call, wire: Wire, scope: Scope) -> None:
        if (refusal := self._refusal(wire, leaving=self.refusing)) is not None:
            raise refusal
        wire.time_left_s()  # a wrong one is refused before the body is read
        resumable = self._resumable(call.path, wire)
        data = await wire.read_body(self._max_body_bytes)
        body = await read_object_apart(data, limit_bytes=self._max_body_bytes)
        if call.path == RESPONSES and body.get("background") not in (None, False):
            with self._cuts.one() as cut:
                asker = Asker(call, wire, scope, self._gate, self._allowed(call), cut)
                await wire.unless_gone(self._later.background.create(body, asker), cut)
            return
        session = wire.header(SESSION_HEADER.encode())
        belongs = session_of(session, body)
        found, data = self._named(data, body, belongs, call)
        first = found.keys[0]
        demand = await self._demand(first, call.path, body, session, len(data))
        call.model = str(first)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"] if key in PASSED}
        headers["x-request-id"] = wire.request_id
        left_s = wire.time_left_s()
        if left_s is not None:
            headers[TIMEOUT.decode()] = f"{max(left_s, _LEAST_S):.3f}"
        request = Request(first, call.path, data, headers, demand, resumable=resumable, named=first.model)
        request.lookup, request.session = lookup_of(scope["headers"], body), belongs
        offer = self._follower.catalog.get(first)
        if offer is not None and offer.cache is not None:  # a stored answer must be one that its side would give
            offer = (await self._forwarder.choose_sides(request)).narrowed(offer)
        asking = self._caching.asking(offer, body, call.tenant, wire)
        del body, data  # whoever sends it lets go of it when the answer begins
        try:
            if call.key is None:
                await self._run(found, request, asking, session, wire)
                return
            async with self._admitted(call, wire, request):
                await self._run(found, request, asking, session, wire)
        finally:
            call.model = str(request.key)

    @asynccontextmanager
    async def _admitted(self, call: Call, wire: Wire, request: Request) -> AsyncIterator[None]:
        """The request's place in the limits of its key, where one was needed."""
        request.tenant = call.tenant
        if self._gate is None or call.key is None:
            yield
            return
        demand = request.demand
        tensors = call.path == KSERVE  # which have no tokens
        prompt = 0 if tensors else prompt_tokens(len(request.body))
        answer = 0 if tensors else answer_tokens(demand.answer_tokens, demand.choices)
        async with self._gate.admitted(call.key, wire, prompt_tokens=prompt, answer_tokens=answer) as usage:
            request.usage = usage
            request.headers.update(REQUEST_HEADERS)
            yield

    async def _run(self, found: Asked, request: Request, asking: Asking, session: str, wire: Wire) -> None:
        """A semantic cache is asked as the first model's."""
        generate = partial(self._generated, found, request, session, wire)
        with self._cuts.one() as cut:
            await wire.unless_gone(self._caching.answer(request, asking, wire, generate), cut)

    async def _generated(self, found: Asked, request: Request, session: str, wire: Wire) -> None:
        if not found.route:
            await self._forwarder.forward(request, wire)
            return
        prepared = request.key if request.demand.prompt_bytes else None  # whose replicas the demand was made for

        async def rename(request: Request, key: ModelKey) -> None:
            """For another model than before: its name, and what it asks of that one's replicas."""
            nonlocal prepared
            if key == prepared and request.named == key.model:
                return
            body = await read_object_apart(request.body, limit_bytes=len(request.body))
            request.demand = await self._demand(key, request.path, body, session, len(request.body))
            request.body = to_json({**body, "model": key.model})
            request.named = key.model
            prepared = key

        await self._routed.forward(found, request, rename, wire)

    async def _demand(self, key: ModelKey, path: str, body: dict[str, Any], session: str, size: int) -> Demand:
        """Beside the event loop where it takes long."""
        offer = self._follower.catalog.get(key)
        if offer is None:
            return size_of(path, body)  # of a route: another model will be asked
        given = (offer, path, body, session)
        if size > PARSED_APART:
            return await asyncio.to_thread(self._balance.demand, *given)
        return self._balance.demand(*given)

    def _resumable(self, path: str, wire: Wire) -> bool:
        said = wire.header(_RESUME_STREAM)
        if said not in ("", "true", "false"):
            raise InvalidRequest(
                f"{_RESUME_STREAM.decode()}: true or false is wanted, found {said[:40]!r}", error_code="invalid_value"
            )
        return path in RESUMED_PATHS and (said == "true" if said else self._resume_streams)

    def _named(self, data: bytes, body: dict[str, Any], session: str, call: Call) -> tuple[Asked, bytes]:
        """Whom a body is for, and the body as the first of them wants it: with the model's own name."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is missing: the name of a model of /v1/models", param="model")
        found = asked(name, self._known(), self._routes.routes, session, may_ask=self._allowed(call))
        own = found.keys[0].model
        if own != name:
            data = to_json({**body, "model": own})
        return found, data

    def _known(self) -> Catalog:
        """Raises `Unavailable` while nothing is known."""
        if not (self._follower.synced and self._routes.synced):
            raise Unavailable(f"the models are not known yet: etcd has not answered since this {self._called} started")
        return self._follower.catalog

    def _allowed(self, call: Call) -> Callable[[ModelKey], bool]:
        """What the key of a request may ask."""
        gate, key = self._gate, call.key
        if gate is None or key is None:
            return may_ask_all
        return lambda model: gate.may_ask(key, model)

    # ------------------------------------------------------------------------------------------------ answered here

    async def _remove(self, call: Call, wire: Wire, scope: Scope) -> None:
        """Stored answers of who asks, of one model where the query says so; see serving/cache/app.py."""
        wanted = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        catalog, key = self._known(), None
        if "model" in wanted:
            key = asked(wanted["model"], catalog, {}, "", may_ask=self._allowed(call)).keys[0]
            wanted["model"] = key.model
        removed = await self._caching.remove(catalog, wanted, key, call.tenant)
        await wire.answer(200, {"removed": removed})

    async def _health(self, _call: Call, wire: Wire) -> None:
        status = 503 if self.draining or not (self._follower.synced and self._routes.synced) else 200
        state = "draining" if self.draining else "ready" if status == 200 else "starting"
        await wire.answer(status, {"status": state, "discovery_stale": self._follower.stale})

    async def _metrics(self, _call: Call, wire: Wire) -> None:
        await wire.answer_bytes(200, await asyncio.to_thread(generate_latest, self._registry), CONTENT_TYPE_LATEST)

    async def _openapi(self, _call: Call, wire: Wire) -> None:
        await wire.answer(200, _document())

    async def _docs(self, _call: Call, wire: Wire) -> None:
        await wire.answer_bytes(200, docs_page(_document()).encode(), "text/html; charset=utf-8")

    async def _models(self, call: Call, wire: Wire) -> None:
        catalog, routes, may_ask = self._follower.catalog, self._routes.routes, self._allowed(call)
        offers = [offer for offer in catalog.offers() if is_ready(offer) and may_ask(offer.key)]
        listed = [_entry(str(offer.key) if offer.name in routes else offer.name, offer) for offer in offers]
        leading = ((name, leads_to(route, catalog, may_ask)) for name, route in routes.items())
        listed += [_entry(name, offer, route=True) for name, offer in leading if offer is not None]
        await wire.answer(200, {"object": "list", "data": [{**one, "created": self._created} for one in listed]})

    async def _model(self, call: Call, name: str, wire: Wire) -> None:
        catalog, route, may_ask = self._known(), self._routes.routes.get(name), self._allowed(call)
        known = {} if route is None else {name: route}
        key = asked(name, catalog, known, "", may_ask=may_ask).keys[0]
        offer = catalog.get(key) if route is None else leads_to(route, catalog, may_ask)
        if offer is None:
            raise Unavailable(f"no model of the route `{name}` has a replica that takes requests now")
        await wire.answer(200, {**_entry(name, offer, route=route is not None), "created": self._created})


def _entry(name: str, offer: Offer, *, route: bool = False) -> dict[str, Any]:
    """A model as OpenAI lists it. Of a route, `root` is the model that it leads to, as other servers call it."""
    owner = f"{offer.key.namespace}/{offer.key.application}"
    entry = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    return entry | ({"root": str(offer.key)} if route else {})


@cache
def _document() -> dict[str, Any]:
    return document("OpenAI-compatible API of a mesh", VERSION, (*GATEWAY, GATEWAY_RESPONSES, *LATER))
