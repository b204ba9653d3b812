"""What a gateway asks brokers: the SDK's client of them, in the words of clients that do not know brokers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from serving._proto import broker_pb2 as bpb
from serving.errors import DeadlineExceeded, MeshError, NotFound, ResourceExhausted, Unavailable
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.ids import QueuedId, UnknownRequest
from serving.gateway.queued.targets import QueueTargets
from serving.observe import get_logger
from serving.sdk.attended import Lost, attended
from serving.sdk.broker_errors import QueueFull
from serving.sdk.brokers import Brokers
from serving.sdk.parts import Place, TicketPart
from serving.sdk.queue import QueueHandlers
from serving.sdk.tickets import TICKET_TIMEOUT_S, Ticket
from serving.store.keys import AppKey

_LOG: Final = get_logger(__name__)
_ASKS: Final[dict[str, Callable[..., Any]]] = {"Get": bpb.GetRequest, "Cancel": bpb.CancelRequest}


class FullQueue(ResourceExhausted):
    """A broker's limit is reached; `retry_after_s` None: it will not be taken later either."""

    error_code = "queue_full"

    def __init__(self, error: QueueFull) -> None:
        super().__init__(error.message)
        self.retry_after_s = max(1, math.ceil(error.retry_after_s)) if error.retry_after_s > 0 else None


class Journals:
    """Belongs to one event loop. `brokers` is its owner's to close."""

    def __init__(self, brokers: Brokers, targets: QueueTargets) -> None:
        self._brokers = brokers
        self._targets = targets
        self._handlers = QueueHandlers(brokers).by_call

    async def submit(self, app: AppKey, request: bpb.SubmitRequest, timeout_s: float) -> bpb.SubmitReply:
        """Returns when it is on disk. Raises `FullQueue`, `Unavailable`, `DeadlineExceeded`, what the broker says."""
        try:
            return await self._brokers.submit(app, request, timeout_s)
        except QueueFull as error:
            raise FullQueue(error) from error
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                "no broker has answered in time, and one may have taken the request; send it again with the header "
                f"`Idempotency-Key: {request.idempotency_key}`, so that it is not taken twice"
            ) from error
        except Unavailable as error:
            raise _away(error, app) from error

    async def call(
        self, app: AppKey, request: bpb.SubmitRequest, *, timeout_s: float | None, parts: bool
    ) -> AsyncGenerator[TicketPart | bpb.Item, None]:
        """See `attended`. Raises `FullQueue`, `Unavailable`, `DeadlineExceeded`, what the broker says."""
        try:
            async with contextlib.aclosing(
                attended(self._brokers, app, request, timeout_s=timeout_s, parts=parts)
            ) as found:
                async for each in found:
                    yield each
        except QueueFull as error:
            raise FullQueue(error) from error
        except Lost:
            raise
        except (Unavailable, NotFound) as error:  # one that is not found yet is known to others already
            raise _away(error, app) from error

    async def item(self, name: QueuedId, asker: Asker, *, wait_s: float = 0.0) -> bpb.Item:
        """After its end, or `wait_s`. Raises `UnknownRequest`, also for another tenant's, and `Unavailable`."""
        return await self._asked(name, asker, "Get", wait_s)

    async def cancel(self, name: QueuedId, asker: Asker) -> bpb.Item:
        """One that has ended stays as it is. Raises as `item` does."""
        await self.item(name, asker)  # whose it is
        return await self._asked(name, asker, "Cancel", 0.0)

    def parts(self, name: QueuedId, after: Place | None) -> AsyncGenerator[TicketPart, None]:
        """See `Ticket.parts`. Of an item whose owner was asked for."""
        return Ticket(name.app, name.ticket, self._handle, self._brokers).parts(after=after)

    async def _asked(self, name: QueuedId, asker: Asker, method: str, wait_s: float) -> bpb.Item:
        if not self._targets.serves(name.app):
            raise UnknownRequest(str(name))
        if not self._targets.knows(name.app):
            raise _away(Unavailable("nothing of the application is in discovery"), name.app)
        request = _ASKS[method](ticket=name.ticket)
        if wait_s:
            request.wait_s = wait_s
        try:
            item: bpb.Item = await self._brokers.ask(
                name.app, name.journal, method, request, wait_s=wait_s, timeout_s=wait_s + TICKET_TIMEOUT_S
            )
        except NotFound as error:
            raise UnknownRequest(str(name)) from error
        except (Unavailable, DeadlineExceeded) as error:
            raise _away(error, name.app) from error
        if not asker.owns(item):
            raise UnknownRequest(str(name))
        return item

    def _handle(self, call: object) -> Awaitable[Any]:
        return self._handlers[type(call)](call)


def _away(error: MeshError, app: AppKey) -> Unavailable:
    """Addresses of brokers are no client's concern."""
    _LOG.warning("no broker answers", application=str(app), error=error.message)
    return Unavailable(f"the broker of {app} that is to be asked cannot be reached now; try again later")
