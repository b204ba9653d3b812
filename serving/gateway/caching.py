"""Asks the semantic cache in front of a model first, and brings it what was generated.

A cache that is away, slow or broken costs nothing but hits: the request goes to the replicas as if there were none. The
answer of a replica never passes through the cache, so that one that ends takes no stream with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.cache import headers
from serving.cache.control import CacheControl, read_control
from serving.cache.scope import cannot_be_cached
from serving.errors import NotFound, Unavailable
from serving.gateway.cache_client import CacheClient, Found, Held
from serving.gateway.catalog import Catalog, ModelKey, Offer
from serving.gateway.forwarding import ANSWERED_BY, Request
from serving.gateway.instruments import Instruments
from serving.gateway.keys.usage import REQUEST_HEADERS, UsageReader
from serving.gateway.recording import Recorder, Room
from serving.timeouts import cancel_and_wait, wait_for
from serving.types import ENDPOINT_READY
from serving.wire import Wire

_CHAT: Final = "/v1/chat/completions"
_BODY_BYTES: Final = 256 << 10  # larger ones are not worth to be sent twice
_ROOM_BYTES: Final = 256 << 20  # of answers on their way to caches
_NO_CONTROL: Final = CacheControl()
_SETTLING: Final = 256  # answers that are being put; more are not kept


class NotStored(NotFound):
    """The client wants a stored answer or none (RFC 9111, 5.2.1.7: answered 504). Nothing was asked of a replica."""

    http_status = 504
    error_code = "not_cached"


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, as far as caches are concerned. `worth`: there is a cache, and what it asks for may be cached."""

    offer: Offer | None
    tenant: str
    worth: bool
    control: CacheControl
    control_text: str
    tags: str


class Caching:
    """Belongs to one event loop."""

    def __init__(self, client: CacheClient, instruments: Instruments, *, follow_s: float) -> None:
        """`follow_s`: who asks the same as another request waits for its answer for so long."""
        self._client = client
        self._instruments = instruments
        self._follow_s = follow_s
        self._room = Room(_ROOM_BYTES)
        self._settling: set[asyncio.Task[None]] = set()

    def known(self, catalog: Catalog) -> None:
        """Forgets caches that are not there any more."""
        self._client.known(catalog.caches)

    @staticmethod
    def asking(offer: Offer | None, body: Mapping[str, Any], tenant: str, wire: Wire) -> Asking:
        """Raises `InvalidArgument` for tags that are not taken."""
        tags, control = wire.header(headers.TAGS.encode()), wire.header(b"cache-control")
        if tags:
            headers.read_tags(tags)
        worth = offer is not None and offer.cache is not None and not cannot_be_cached(body)
        return Asking(offer, tenant, worth, read_control(control) if control else _NO_CONTROL, control, tags)

    async def answer(
        self, request: Request, asking: Asking, wire: Wire, generate: Callable[[], Awaitable[None]]
    ) -> None:
        """Answers the client: from the cache, or by `generate`. Raises what that raises, and `NotStored`."""
        held = await self._asked(request, asking, wire)
        if wire.status:
            return
        if asking.control.only_if_cached:
            raise NotStored("no stored answer fits, and the request wants no other (cache-control: only-if-cached)")
        if held is None:
            await generate()
            return
        wire.add_header(headers.CACHE, "miss")
        wire.add_header(headers.SCOPE, held.scope)
        await self._led(request, held, generate)

    async def _asked(self, request: Request, asking: Asking, wire: Wire) -> Held | None:
        """A ticket, or None. The client has its answer if `wire` has a status."""
        offer = asking.offer
        cache = offer.cache if offer is not None else None
        if offer is None or cache is None or asking.control.no_store or not asking.worth:
            return None
        if request.path != _CHAT or len(request.body) > _BODY_BYTES:
            return None
        head = _head(request, asking, offer)
        until = time.monotonic() + self._follow_s
        while True:
            found = await self._client.ask(cache, request.body, head)
            if isinstance(found, Found):
                self._instruments.cache.labels(found.tier).inc()
                wire.add_header(ANSWERED_BY, str(request.key))
                await wire.begin(200, found.head)
                await wire.end(found.body)
                return None
            if found is None or found.ticket:
                self._instruments.cache.labels("miss" if found is not None else "none").inc()
                return found
            if not await self._followed(found, until):
                self._instruments.cache.labels("none").inc()
                return None

    async def _followed(self, held: Held, until: float) -> bool:
        try:
            return await wait_for(self._client.followed(held), until - time.monotonic())
        except asyncio.TimeoutError:
            held.close()
            return False
        except BaseException:
            held.close()
            raise

    async def _led(self, request: Request, held: Held, generate: Callable[[], Awaitable[None]]) -> None:
        recorder = request.recorder = Recorder(self._room)
        request.headers.update(REQUEST_HEADERS)  # so that streams are counted, too
        request.usage = request.usage or UsageReader(0)
        asked = request.key
        try:
            await generate()
        except asyncio.CancelledError:  # the client is gone: the next one who waits generates it
            held.close()
            recorder.forget()
            raise
        finally:
            if not held.response.closed:
                self._settle(held, recorder, kept=request.key == asked)

    def _settle(self, held: Held, recorder: Recorder, *, kept: bool) -> None:
        """Beside the request: its client has the answer, and may go. `kept`: the model that was asked made it."""
        if len(self._settling) >= _SETTLING:
            held.close()
            recorder.forget()
            return
        task = asyncio.create_task(self._settled(held, recorder, kept), name="cache-settle")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settled(self, held: Held, recorder: Recorder, kept: bool) -> None:
        try:
            if kept and recorder.whole and recorder.endpoint is not None:
                await self._client.settle(held, recorder.data, recorder.media_type, _made_by(recorder.endpoint))
            else:
                await self._client.give_back(held)
        finally:
            recorder.forget()
            held.close()

    async def remove(self, catalog: Catalog, wanted: Mapping[str, str], key: ModelKey | None, tenant: str) -> int:
        """Removes stored answers of a tenant, of one model where there is a `key`. Answers how many.

        Raises `Unavailable` when a cache does not answer, or none is there: what it keeps stays.
        """
        caches = catalog.caches
        if key is not None:
            app = (key.namespace, key.application)
            caches = tuple(cache for cache in caches if (cache.namespace, cache.application) == app)
        if not caches:
            raise Unavailable("there is no semantic cache here now; what one that is away keeps stays")
        removed = await asyncio.gather(*(self._client.remove(cache, wanted, tenant) for cache in caches))
        return sum(removed)

    async def close(self) -> None:
        await cancel_and_wait(*self._settling)


def _head(request: Request, asking: Asking, offer: Offer) -> dict[str, str]:
    head = {
        "content-type": "application/json",
        "x-request-id": request.headers["x-request-id"],
        headers.TENANT: asking.tenant,
        headers.MODEL: request.key.model,
        headers.REVISION: _made_by(_newest(offer)),
    }
    said = {"cache-control": asking.control_text, headers.TAGS: asking.tags}
    return head | {name: text for name, text in said.items() if text}


def _newest(offer: Offer) -> pb.Endpoint:
    """Of a rollout: what will answer soon. What others answer meanwhile is not kept."""
    ready = [endpoint for endpoint in offer.endpoints if endpoint.state == ENDPOINT_READY]
    return max(ready or offer.endpoints, key=lambda endpoint: (endpoint.generation, endpoint.revision))


def _made_by(endpoint: pb.Endpoint) -> str:
    """Names the weights and settings that answer; where a server does not say, its deployment's revision."""
    return endpoint.content or f"{endpoint.deployment}/{endpoint.generation}/{endpoint.revision}"
