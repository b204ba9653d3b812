"""The HTTP interface of a semantic cache, which gateways ask before they ask a replica.

| request | answer |
| --- | --- |
| `POST /v1/cache/lookup`, a chat request as its client sent it | 200: the stored answer, as the client wants it; 204: generate it, nobody else has use for it; 202: see below |
| `PUT /v1/cache/tickets/<ticket>`, a replica's whole answer, as it came | `{"kept": true}`, or why it is not |
| `DELETE /v1/cache/tickets/<ticket>` | there is no answer that others may have |
| `DELETE /v1/cache?tenant=&model=&scope=&entry=&tag=` | how many answers were removed that fit all that is given |
| `GET /v1/cache` | counters and size |

202 with a ticket in `x-mesh-cache-ticket`: generate the answer and put it back. The body of that 202 stays open until
then: whoever closes it has given up, and somebody else gets the turn. 202 without a ticket: another request generates
it; the body is empty lines, and at its end a word: `again` (ask again) or `generate` (your own).
"""  # noqa: E501

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from serving.cache import headers, replay
from serving.cache.control import CacheControl, read_control
from serving.cache.generated import completion
from serving.cache.instruments import CacheInstruments
from serving.cache.scope import Asked
from serving.cache.semantic_cache import Hit, Miss
from serving.cache.turns import Follow, Lead, Turns, Wanted
from serving.errors import InvalidArgument, MeshError, NotFound, Unavailable
from serving.observe import get_logger, log_fields
from serving.openai.chat import ChatCompletionRequest, read_chat
from serving.openai.errors import InvalidRequest
from serving.python_deployment.failure import at_edge
from serving.wire import ClientGone, Wire

_LOG: Final = get_logger(__name__)
_STDLIB_LOG: Final = logging.getLogger(__name__)
LOOKUP: Final = "/v1/cache/lookup"
CACHE: Final = "/v1/cache"
TICKETS: Final = "/v1/cache/tickets/"
_WRITE_TIMEOUT_S: Final = 10.0
_BEAT_S: Final = 0.5  # how often followers hear that they are not forgotten
_LOOKUPS: Final = 64  # at a time: one that waits for more takes longer than it can save
_HELD: Final = 8192  # requests that generate, or wait for it
_BODY_BYTES: Final = 1 << 20
_ANSWER_BYTES: Final = 16 << 20  # as it comes: a stream is much longer than the text in it
_REMOVED_BY: Final = ("tenant", "model", "scope", "entry", "tag")


class _WrongMethod(InvalidRequest):
    http_status = 405


@dataclass(slots=True)
class _Ticket:
    lead: Lead
    tags: tuple[str, ...]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class CacheApp:
    """An ASGI application. Belongs to one event loop."""

    def __init__(self, turns: Turns, instruments: CacheInstruments, registry: CollectorRegistry, *, name: str) -> None:
        """`name` goes into the header `x-mesh-replica`."""
        self._turns = turns
        self._instruments = instruments
        self._registry = registry
        self._name = name
        self._looking = 0
        self._held = 0
        self._draining = asyncio.Event()
        self._tickets: dict[str, _Ticket] = {}
        self._routes: dict[tuple[str, str], Callable[[Wire, Scope], Awaitable[None]]] = {
            ("POST", LOOKUP): self._lookup,
            ("DELETE", CACHE): self._remove,
            ("GET", CACHE): self._statistics,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
        }

    def drain(self) -> None:
        """Takes no more lookups, and lets go of those who wait."""
        self._draining.set()
        for ticket in self._tickets.values():
            ticket.ended.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        wire = Wire(scope, receive, send, replica=self._name, write_timeout_s=_WRITE_TIMEOUT_S)
        with log_fields(request=wire.request_id, trace_id=wire.trace_id):
            try:
                await self._route(wire, scope)
            except ClientGone as error:
                _LOG.debug("client gone", reason=error.message)
            except Exception as error:  # noqa: BLE001 - the edge: it becomes an error object
                await self._refuse(wire, at_edge(error, scope["path"], _STDLIB_LOG))

    @staticmethod
    async def _refuse(wire: Wire, error: MeshError) -> None:
        try:
            await wire.refuse(error)
        except ClientGone as gone:
            _LOG.debug("client gone before its error", reason=gone.message)

    async def _route(self, wire: Wire, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        if path.startswith(TICKETS) and method in ("PUT", "DELETE"):
            name = path.removeprefix(TICKETS)
            await (self._settle(name, wire) if method == "PUT" else self._give_back(name, wire))
            return
        handle = self._routes.get((method, path))
        if handle is not None:
            await handle(wire, scope)
            return
        allowed = sorted(known for known, there in self._routes if there == path)
        if allowed:
            wire.add_header("allow", ", ".join(allowed))
            raise _WrongMethod(f"{path} takes {' and '.join(allowed)}, not {method}", error_code="method_not_allowed")
        raise NotFound(f"there is no {path} here")

    # ------------------------------------------------------------------------------------------------ lookups

    async def _lookup(self, wire: Wire, _scope: Scope) -> None:
        if self._draining.is_set():
            raise Unavailable("this cache is draining")
        began = time.perf_counter()
        body = await wire.read_object(_BODY_BYTES)
        tags = headers.read_tags(_told(wire, headers.TAGS))
        request = _readable(body)
        control = read_control(wire.header(b"cache-control"))
        found: Hit | Miss | Lead | Follow
        if request is None:
            found = self._turns.cache.bypass("the request is wrong, or has parts that are not known")
        elif self._looking >= _LOOKUPS or self._held >= _HELD:
            found = self._turns.cache.bypass("the cache is busy")
        else:
            found = await self._entered(wire, body, request, control)
        self._instruments.looked_up(found, time.perf_counter() - began)
        await self._answered(wire, found, request, tags)

    async def _entered(
        self, wire: Wire, body: dict[str, Any], request: ChatCompletionRequest, control: CacheControl
    ) -> Hit | Miss | Lead | Follow:
        asked = Asked(_told(wire, headers.TENANT), _told(wire, headers.MODEL), _told(wire, headers.REVISION), body)
        wanted = Wanted(
            fresh=control.no_cache,
            stored_only=control.only_if_cached,
            max_age_s=control.max_age_s,
            usage=not request.stream or request.include_usage,
        )
        self._looking += 1
        try:
            return await self._turns.enter(asked, wanted)
        finally:
            self._looking -= 1

    async def _answered(
        self,
        wire: Wire,
        found: Hit | Miss | Lead | Follow,
        request: ChatCompletionRequest | None,
        tags: tuple[str, ...],
    ) -> None:
        if isinstance(found, Hit) and request is not None:
            await _replay(wire, found, request)
        elif isinstance(found, Lead):
            await self._hold(wire, self._lead(wire, found, tags))
        elif isinstance(found, Follow):
            await self._hold(wire, self._follow(wire, found))
        else:
            await wire.begin(204, ())
            await wire.end()

    async def _hold(self, wire: Wire, work: Awaitable[None]) -> None:
        self._held += 1
        try:
            await wire.unless_gone(work)
        finally:
            self._held -= 1

    async def _lead(self, wire: Wire, lead: Lead, tags: tuple[str, ...]) -> None:
        """Open until the answer is put, or its end is otherwise known."""
        name = secrets.token_hex(16)
        ticket = self._tickets[name] = _Ticket(lead, tags)
        scope = lead.miss.scope
        digest = scope.digest.hex() if scope is not None else ""
        try:
            await wire.begin(202, [(headers.TICKET.encode(), name.encode()), (headers.SCOPE.encode(), digest.encode())])
            await ticket.ended.wait()
        finally:
            self._tickets.pop(name, None)
            lead.give_up()
        await wire.end()

    async def _follow(self, wire: Wire, follow: Follow) -> None:
        """Until the other's generation has ended, however long that takes: the one who asks has a limit of its own."""
        await wire.begin(202, ())
        ended = asyncio.ensure_future(follow.ended())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while not (ended.done() or draining.done()):
                await wire.send(b"\n")
                await asyncio.wait((ended, draining), timeout=_BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            again = ended.done() and ended.result()
        finally:
            ended.cancel()
            draining.cancel()
        await wire.end(headers.AGAIN if again else headers.GENERATE)

    # ------------------------------------------------------------------------------------------------ answers

    async def _settle(self, name: str, wire: Wire) -> None:
        data = await wire.read_body(_ANSWER_BYTES)
        ticket = self._taken(name)
        try:
            reason = await self._kept(ticket, data, wire)
        finally:
            ticket.ended.set()
        await wire.answer(200, {"kept": not reason, "reason": reason})

    async def _kept(self, ticket: _Ticket, data: bytes, wire: Wire) -> str:
        """Why an answer is not kept."""
        lead = ticket.lead
        scope = lead.miss.scope
        media_type, revision = wire.header(b"content-type"), _told(wire, headers.REVISION)
        if scope is None or scope.revision != revision:
            return lead.refuse("another revision of the model made it")
        try:
            made = await self._turns.run(lambda: completion(data, media_type))
        except InvalidArgument as error:
            return lead.refuse(f"it is no whole answer: {error.message}")
        return await lead.settle(made, ticket.tags)

    async def _give_back(self, name: str, wire: Wire) -> None:
        ticket = self._taken(name)
        ticket.lead.refuse("nothing was generated that may be kept")
        ticket.ended.set()
        await wire.answer(200, {"kept": False})

    def _taken(self, name: str) -> _Ticket:
        ticket = self._tickets.pop(name, None)
        if ticket is None:
            raise NotFound("there is no such ticket: its answer was put before, or its lookup was closed")
        return ticket

    # ------------------------------------------------------------------------------------------------ the rest

    async def _remove(self, wire: Wire, scope: Scope) -> None:
        """A tenant that the header names is a bound: who asks through a gateway removes its own answers only."""
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        unknown = sorted(asked.keys() - set(_REMOVED_BY))
        if unknown:
            wanted = ", ".join(_REMOVED_BY)
            raise InvalidRequest(f"`{unknown[0][:60]}` is not known; there are {wanted}", param=unknown[0][:60])
        tenant = asked.get("tenant")
        if wire.has_header(headers.TENANT.encode()):
            own = _told(wire, headers.TENANT)
            if tenant not in (None, own):
                raise InvalidRequest("answers of another tenant cannot be removed", param="tenant")
            tenant = own
        digests = {name: _digest(name, asked[name]) for name in ("scope", "entry") if name in asked}
        model, tag = asked.get("model"), asked.get("tag")
        cache = self._turns.cache
        removed = await self._turns.run(lambda: cache.invalidate(tenant=tenant, model=model, tag=tag, **digests))
        _LOG.info("answers removed", removed=removed, by=sorted(asked))
        await wire.answer(200, {"removed": removed})

    async def _statistics(self, wire: Wire, _scope: Scope) -> None:
        await wire.answer(200, self._instruments.statistics())

    async def _health(self, wire: Wire, _scope: Scope) -> None:
        if self._draining.is_set():
            raise Unavailable("this cache is draining")
        await wire.answer(200, {"status": "ok"})

    async def _metrics(self, wire: Wire, _scope: Scope) -> None:
        await wire.answer_bytes(200, await asyncio.to_thread(generate_latest, self._registry), CONTENT_TYPE_LATEST)


async def _replay(wire: Wire, hit: Hit, request: ChatCompletionRequest) -> None:
    wire.add_header(headers.CACHE, hit.tier)
    wire.add_header(headers.SIMILARITY, f"{hit.similarity:.4f}")
    wire.add_header(headers.ENTRY, hit.entry.key.hex())
    wire.add_header(headers.SCOPE, hit.entry.scope.hex())
    now = time.time()
    if request.stream:
        body = replay.stream(hit.answer, now=now, include_usage=request.include_usage)
        await wire.begin_events()
        await wire.end(body)
    else:
        await wire.answer_bytes(200, replay.whole(hit.answer, now=now), "application/json")


def _readable(body: Mapping[str, Any]) -> ChatCompletionRequest | None:
    """None: the replica says what is wrong with it, or knows what to do with it."""
    try:
        return read_chat(body)
    except InvalidRequest:
        return None


def _told(wire: Wire, name: str) -> str:
    return wire.header(name.encode())


def _digest(name: str, text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise InvalidRequest(f"`{name}` is not what `x-mesh-cache-{name}` of an answer says", param=name)
    return value
