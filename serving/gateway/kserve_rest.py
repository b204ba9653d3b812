"""KServe v2 over HTTP at the gateway: requests of a model go to one of its replicas, byte for byte.

Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with Triton's extensions
as docs/design/0005-rest.md lists them. Design: docs/design/0019-routes.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from starlette.types import Scope

from serving.errors import InvalidArgument, MeshError, NotFound, NotSupported, Unavailable
from serving.gateway.asked import Asked, asked
from serving.gateway.catalog import ModelKey, is_ready
from serving.gateway.follower import CatalogFollower, RestFollower
from serving.gateway.forwarding import Forwarder, Request
from serving.gateway.passing import Broken
from serving.gateway.queued.targets import QueueTargets
from serving.gateway.route_follower import Routes
from serving.gateway.routed import RouteForwarder
from serving.gateway.splits import Splits, lookup_of
from serving.openai.errors import retry_after_s, status_of
from serving.python_deployment.failure import at_edge
from serving.routing.llm_routing import SESSION_HEADER
from serving.store.keys import AppKey
from serving.version import VERSION
from serving.wire import ClientGone, Wire

PREFIX: Final = "/v2"
HEALTH: Final = f"{PREFIX}/health/"
_STDLIB_LOG: Final = logging.getLogger(__name__)
_FAULTS_FROM: Final = 501  # Triton answers 500 to some requests that are wrong themselves
_MODELS: Final = f"{PREFIX}/models/"
_VERSION: Final = re.compile(r"(.+)/versions/([^/]+)")
_POSTED: Final = frozenset({"infer", "generate", "generate_stream"})
_READ: Final = frozenset({"ready", "config", "stats"})
_EXTENSIONS: Final = ["model_repository", "binary_tensor_data", "classification", "parameters", "generate"]
_HEADER_LENGTH: Final = b"inference-header-content-length"
_PASSED: Final = frozenset(
    {b"content-type", b"accept", b"accept-encoding", b"traceparent", b"tracestate", b"user-agent", _HEADER_LENGTH}
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path below /v2/models asks of a model: `action` "" is its metadata, `version` "" any."""

    name: str
    version: str
    action: str

    def path(self, model: str) -> str:
        """The path at a replica, which knows the model by its own name."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        return f"{_MODELS}{quote(model, safe='')}{version}" + (f"/{self.action}" if self.action else "")


def target_of(path: str) -> Target | None:
    """`/v2/models/a/b/m/versions/2/infer`: names may have slashes, quoted or not. None for other paths."""
    rest = path.removeprefix(_MODELS)
    if not path.startswith(_MODELS) or not rest:
        return None
    name, slash, action = rest.rpartition("/")
    if not (slash and action in _POSTED | _READ):
        name, action = rest, ""
    found = _VERSION.fullmatch(name)
    return Target(found[1], found[2], action) if found else Target(name, "", action)


@dataclass(frozen=True, slots=True)
class Terms:
    """On which one request is taken. `refuse` is why none of a model is taken now; `cut` ends one that runs.

    `leaves`: whoever asks whether it is ready is to go elsewhere. `may_ask` says which models its key is for; what it
    sends is sent while it is `admitted` by the limits of its key. `asks` hears the model that it is for, when that is
    known, and the one that was asked last.
    """

    refuse: MeshError | None
    leaves: bool
    cut: asyncio.Future[MeshError]
    may_ask: Callable[[ModelKey], bool]
    admitted: Callable[[Request], AbstractAsyncContextManager[None]]
    asks: Callable[[ModelKey], None]


class KserveRest:
    """Answers what begins with /v2. Belongs to one event loop."""

    def __init__(
        self,
        follower: CatalogFollower,
        rest: RestFollower,
        routes: Routes,
        splits: Splits,
        forwarder: Forwarder,
        routed: RouteForwarder,
        targets: QueueTargets,
        *,
        max_body_bytes: int,
        called: str,
    ) -> None:
        """`called` is the word for whose it is: in errors, and as the server's name."""
        self._called = called
        self._targets = targets
        self._follower = follower
        self._rest = rest
        self._routes = routes
        self._splits = splits
        self._forwarder = forwarder
        self._routed = routed
        self._max_body_bytes = max_body_bytes

    async def answer(self, path: str, wire: Wire, scope: Scope, terms: Callable[[], Terms]) -> None:
        """Answers one request. Errors are the protocol's objects."""
        try:
            await self._answer(path, wire, scope, terms())
        except (ClientGone, Broken):
            raise
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an error object
            told = at_edge(error, path, _STDLIB_LOG)
            if wire.status:  # it has begun: an event, or broken off
                await wire.refuse(told)
                return
            after = retry_after_s(told)
            headers = {"retry-after": str(after)} if after else None
            await wire.answer(status_of(told), {"error": told.message}, headers)

    async def _answer(self, path: str, wire: Wire, scope: Scope, terms: Terms) -> None:
        method, path = scope["method"], path.rstrip("/")
        target = target_of(path)
        ready = self._follower.synced and self._routes.synced and terms.refuse is None and not terms.leaves
        if target is not None and not (target.name == "stats" and not target.action):
            await self._forward(target, method, wire, scope, terms)
        elif path == f"{PREFIX}/health/live":
            await wire.answer_bytes(200, b"", "text/plain")
        elif path == f"{PREFIX}/health/ready":
            await wire.answer_bytes(200 if ready else 503, b"", "text/plain")
        elif path == PREFIX:
            await wire.answer(200, {"name": f"mesh-{self._called}", "version": VERSION, "extensions": _EXTENSIONS})
        elif path == f"{PREFIX}/repository/index":
            await wire.answer(200, self._index(terms.may_ask))
        else:
            raise NotSupported(
                f"{path} is not supported at the {self._called}, as it concerns one process: ask a replica itself "
                "(`mesh endpoints` shows the addresses)"
            )

    def _index(self, may_ask: Callable[[ModelKey], bool]) -> list[dict[str, str]]:
        """Every model by its full name."""
        offers = (offer for offer in self._rest.catalog.offers() if may_ask(offer.key))
        states = {str(offer.key): "READY" if is_ready(offer) else "UNAVAILABLE" for offer in offers}
        return [{"name": name, "state": state} for name, state in states.items()]

    async def _forward(self, target: Target, method: str, wire: Wire, scope: Scope, terms: Terms) -> None:
        wanted = "POST" if target.action in _POSTED else "GET"
        if method != wanted:
            wire.add_header("allow", wanted)
            raise InvalidArgument(f"{target.action or 'metadata'} of a model takes {wanted}, not {method}")
        if terms.refuse is not None:
            raise terms.refuse
        wire.time_left_s()  # a wrong one is refused before the body is read
        data = await wire.read_body(self._max_body_bytes)
        if wanted == "POST":
            _refuse_sequences(data, wire.header(_HEADER_LENGTH))
        session = wire.header(SESSION_HEADER.encode())
        found = self._find(target, session, terms.may_ask)
        first = found.keys[0]
        terms.asks(first)
        for key in found.keys:
            await self._refuse_copies(key)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"] if key in _PASSED}
        headers["x-request-id"] = wire.request_id
        path = target.path(first.model)
        request = Request(first, path, data, headers, method=wanted, faults_from=_FAULTS_FROM)
        request.lookup, request.session = lookup_of(scope["headers"], {}), session
        del data

        async def rename(request: Request, key: ModelKey) -> None:
            request.path = target.path(key.model)

        async with terms.admitted(request):
            if found.route:
                sending = self._routed.forward(found, request, rename, wire)
            else:
                sending = self._forwarder.forward(request, wire)
            try:
                await wire.unless_gone(sending, terms.cut)
            finally:
                terms.asks(request.key)

    def _find(self, target: Target, session: str, may_ask: Callable[[ModelKey], bool]) -> Asked:
        if not (self._follower.synced and self._routes.synced):
            raise Unavailable(f"the models are not known yet: etcd has not answered since this {self._called} started")
        name, routes = target.name, self._routes.routes
        try:
            return asked(name, self._rest.catalog, routes, session, may_ask=may_ask)
        except NotFound as error:
            with contextlib.suppress(MeshError):
                found = asked(name, self._targets.catalog(openai=False), routes, session, may_ask=may_ask)
                if target.action in _POSTED and self._targets.offers_pulled(found.keys[0]):
                    return found  # its requests need nobody who speaks HTTP
            raise NotFound(
                f"{error.message}; models of Python deployments answer gRPC only, language models at /v1"
            ) from error

    async def _refuse_copies(self, key: ModelKey) -> None:
        if self._rest.catalog.get(key) is None:
            return
        traffic = await self._splits.of(AppKey(key.namespace, key.application))
        if to := traffic.shadow("", key.model, lambda: 0.0):
            raise NotSupported(
                f"{key} has copies of its requests sent to {to} (`shadow`), which REST at the {self._called} does not "
                "do yet: use gRPC, or a client that follows discovery"
            )


def _refuse_sequences(data: bytes, header_length: str) -> None:
    """A sequence's state is at one replica, which is not looked for here."""
    head = data[: int(header_length)] if header_length.isascii() and header_length.isdigit() else data
    if b'"sequence_id"' not in head:
        return
    try:
        sequence = json.loads(head).get("parameters", {}).get("sequence_id", 0)
    except (ValueError, AttributeError, RecursionError):
        return  # the replica says what is wrong with it
    if sequence not in (0, ""):
        raise NotSupported(
            "sequences are not supported over REST here, as their state is at one replica: use gRPC, or a client that "
            "follows discovery"
        )
