"""Tickets and queues for those who do not use asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from serving.sdk._app_names import AppName
from serving.sdk._client_loop import Wait
from serving.sdk.parts import Place, TicketPart
from serving.sdk.queue import QueueClient
from serving.sdk.tickets import TICKET_TIMEOUT_S, BrokerDrain, QueueItem, QueueStatistics, Result, Ticket
from serving.store.keys import AppKey


class BlockingTicket:
    """A request that was submitted. The methods are those of `Ticket`; see there for what they mean and raise."""

    def __init__(self, ticket: Ticket, wait: Wait) -> None:
        self._ticket = ticket
        self._wait = wait

    def __str__(self) -> str:
        return str(self._ticket)

    def __repr__(self) -> str:
        return repr(self._ticket)

    @property
    def app(self) -> AppKey:
        return self._ticket.app

    @property
    def id(self) -> str:
        return self._ticket.id

    @property
    def repeated(self) -> bool:
        return self._ticket.repeated

    def info(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `Ticket.info`."""
        return self._wait(self._ticket.info(timeout_s=timeout_s))

    def state(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> str:
        """See `Ticket.state`."""
        return self.info(timeout_s=timeout_s).state

    def cancel(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `Ticket.cancel`."""
        return self._wait(self._ticket.cancel(timeout_s=timeout_s))

    def retry(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `Ticket.retry`."""
        return self._wait(self._ticket.retry(timeout_s=timeout_s))

    def result(self, *, timeout_s: float | None = None) -> Result:
        """See `Ticket.result`."""
        return self._wait(self._ticket.result(timeout_s=timeout_s))

    def __iter__(self) -> Iterator[TicketPart]:
        return self.parts()

    def parts(self, *, after: Place | None = None, timeout_s: float | None = None) -> Iterator[TicketPart]:
        """See `Ticket.parts`."""
        parts = self._ticket.parts(after=after, timeout_s=timeout_s)
        try:
            while (part := self._wait(_next(parts))) is not None:
                yield part
        finally:
            self._wait(parts.aclose())


class BlockingQueue:
    """`MeshClient.queue`. See `QueueClient` for what the methods mean and raise."""

    def __init__(self, queue: QueueClient, wait: Wait) -> None:
        self._queue = queue
        self._wait = wait

    def list(
        self,
        app: AppName,
        *,
        deployment: str = "",
        tenant: str = "",
        states: Sequence[str] = (),
        limit: int = 100,
        timeout_s: float = TICKET_TIMEOUT_S,
    ) -> tuple[QueueItem, ...]:
        """See `QueueClient.list`."""
        return self._wait(
            self._queue.list(app, deployment=deployment, tenant=tenant, states=states, limit=limit, timeout_s=timeout_s)
        )

    def statistics(self, app: AppName, *, timeout_s: float = TICKET_TIMEOUT_S) -> tuple[QueueStatistics, ...]:
        """See `QueueClient.statistics`."""
        return self._wait(self._queue.statistics(app, timeout_s=timeout_s))

    def drain(
        self,
        app: AppName,
        broker: str = "",
        *,
        undo: bool = False,
        discard_s: float = 0.0,
        timeout_s: float = TICKET_TIMEOUT_S,
    ) -> tuple[BrokerDrain, ...]:
        """See `QueueClient.drain`."""
        return self._wait(self._queue.drain(app, broker, undo=undo, discard_s=discard_s, timeout_s=timeout_s))

    def item(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `QueueClient.item`."""
        return self._wait(self._queue.item(app, item_id, timeout_s=timeout_s))

    def cancel(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `QueueClient.cancel`."""
        return self._wait(self._queue.cancel(app, item_id, timeout_s=timeout_s))

    def retry(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `QueueClient.retry`."""
        return self._wait(self._queue.retry(app, item_id, timeout_s=timeout_s))

    def callbacks(
        self, app: AppName, *, state: str = "DEAD", limit: int = 100, timeout_s: float = TICKET_TIMEOUT_S
    ) -> tuple[QueueItem, ...]:
        """See `QueueClient.callbacks`."""
        return self._wait(self._queue.callbacks(app, state=state, limit=limit, timeout_s=timeout_s))

    def retry_callback(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """See `QueueClient.retry_callback`."""
        return self._wait(self._queue.retry_callback(app, item_id, timeout_s=timeout_s))


async def _next(parts: AsyncIterator[TicketPart]) -> TicketPart | None:
    return await anext(parts, None)
