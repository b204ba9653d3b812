"""Which replicas of the application have left discovery for good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from serving.discovery.resolver import Resolver
from serving.discovery.view import EndpointView
from serving.errors import MeshError, StoreUnavailable
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0


class Departures:
    """Tells `left` of each replica that goes, and `back` of one that is there again. Belongs to one loop.

    A replica that vanishes while the store does not answer has not left, nor one that a replaced store does not know.
    """

    def __init__(
        self, store: EtcdClient, app: AppKey, left: Callable[[str], None], back: Callable[[str], None]
    ) -> None:
        """`store` is its owner's to close."""
        self._resolver = Resolver(store, app)
        self._left = left
        self._back = back
        self._there: set[str] = set()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once."""
        self._following = asyncio.create_task(self._follow(), name="follow-replicas")

    async def close(self) -> None:
        if self._following is not None:
            await cancel_and_wait(self._following)
        await self._resolver.close()

    async def _follow(self) -> None:
        try:
            with contextlib.suppress(StoreUnavailable):  # it goes on following
                await self._resolver.start(wait_s=_FIRST_VIEW_S)
            async for view in self._resolver.subscribe():
                self._look(view)
        except MeshError as error:
            _LOG.error("replicas that leave are not noticed any more", extra={"error": error.message})

    def _look(self, view: EndpointView) -> None:
        if view.stale:
            return
        there = {one.replica or one.id for one in view.endpoints}
        for replica in sorted(self._there - there):
            _LOG.info("a replica has left", extra={"replica_id": replica})
            self._left(replica)
        for replica in sorted(there - self._there):
            self._back(replica)
        self._there = there
