"""A request to a route: asks its models one after the other until one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from serving.errors import Unavailable
from serving.gateway.asked import Asked
from serving.gateway.catalog import Catalog, ModelKey, is_ready
from serving.gateway.follower import Following
from serving.gateway.forwarding import Forwarder, Request, TargetLeft
from serving.gateway.instruments import Instruments
from serving.gateway.upstreams import Upstreams
from serving.observe import get_logger
from serving.timeouts import wait_for
from serving.wire import Wire

_LOG: Final = get_logger(__name__)

Prepare: TypeAlias = Callable[[Request, ModelKey], Awaitable[None]]
"""Makes a request one for that model: its name in the body, or in the path."""


class RouteForwarder:
    """Belongs to one event loop."""

    def __init__(
        self,
        forwarder: Forwarder,
        follower: Following,
        upstreams: Upstreams,
        instruments: Instruments,
        *,
        pulled: Callable[[ModelKey], bool],
        hold_s: float,
    ) -> None:
        """`pulled`: a broker takes the model's requests, also while no replica is there."""
        self._forwarder = forwarder
        self._follower = follower
        self._upstreams = upstreams
        self._instruments = instruments
        self._pulled = pulled
        self._hold_s = hold_s

    async def forward(self, asked: Asked, request: Request, prepare: Prepare, wire: Wire) -> None:
        """As `Forwarder.forward`; `request.key` is then the model that answered, or that was asked last.

        A model is left when it is not known, has no ready replica, or its replicas are full, leave or break without an
        answer. Nothing is paid for that: each model is asked once. The last one's answer is the client's, whatever
        it says; a request that broke two connections is not sent a third time, wherever.
        """
        keys = await self._usable(asked)
        for index, key in enumerate(keys):
            request.tried.clear()
            request.attempts = 0
            request.key = key
            request.spare = index + 1 < len(keys)
            await prepare(request, key)
            try:
                await self._forwarder.forward(request, wire)
            except TargetLeft as left:
                self._left(asked, key, "full" if left.full else "failed")
                continue
            finally:
                if wire.status and asked.route:
                    self._instruments.route_requests.labels(asked.route, str(key)).inc()
            return

    async def _usable(self, asked: Asked) -> tuple[ModelKey, ...]:
        """Those with a working replica that is not full, then others that are ready. Waits while there is none.

        Raises `Unavailable`.
        """
        until = time.monotonic() + self._hold_s
        while True:
            keys = in_order(asked, self._follower.catalog, self._upstreams, self._pulled)
            left = until - time.monotonic()
            if keys or left <= 0:
                break
            try:
                await wait_for(self._follower.wait_change(), left)
            except asyncio.TimeoutError:
                break
        if not keys:
            listed = ", ".join(f"`{key}`" for key in asked.keys)
            raise Unavailable(f"no model of the route `{asked.route}` has a replica that takes requests now: {listed}")
        for skipped in asked.keys[: asked.keys.index(keys[0])]:
            self._left(asked, skipped, "full" if skipped in keys else "absent")
        return keys

    def _left(self, asked: Asked, key: ModelKey, reason: str) -> None:
        self._instruments.route_fallbacks.labels(asked.route, str(key), reason).inc()
        _LOG.debug("a route leaves a model", route=asked.route, model=str(key), reason=reason)


def in_order(
    asked: Asked, catalog: Catalog, upstreams: Upstreams, pulled: Callable[[ModelKey], bool] = lambda _: False
) -> tuple[ModelKey, ...]:
    """The models with a ready replica or a broker: first those that have room, each in the route's order."""
    offers = {key: offer for key in asked.keys if (offer := catalog.get(key)) is not None and is_ready(offer)}
    queued = [key for key in asked.keys if pulled(key)]
    free = [key for key in asked.keys if key in queued or (key in offers and upstreams.has_room(offers[key]))]
    return (*free, *(key for key in offers if key not in free))
