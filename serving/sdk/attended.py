"""A request at a broker whose caller waits for its end on a connection."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.control import Backoff
from serving.errors import DataLoss, DeadlineExceeded, Unavailable
from serving.sdk.broker_errors import NoHome
from serving.sdk.brokers import Brokers
from serving.sdk.parts import Seen, TicketPart
from serving.store.keys import AppKey

TAKEN_S: Final = 30.0  # until a broker has the request
AWAY_S: Final = 60.0  # for so long nobody may serve its journal
RESULT_TTL_S: Final = 2 * AWAY_S  # whoever comes back within `AWAY_S` finds it
_BACKOFF: Final = Backoff(first_s=0.05, limit_s=1.0, jitter=0.5)


_LASTED_S: Final = 5.0  # a connection that held so long was one


class Lost(Unavailable):
    """Nobody can say any more what became of the request. Tells no addresses."""


async def attended(
    brokers: Brokers, app: AppKey, request: bpb.SubmitRequest, *, timeout_s: float | None, parts: bool
) -> AsyncGenerator[TicketPart | bpb.Item, None]:
    """With `parts` the pieces of the result as they are made, as `Ticket.parts` gives them; then the item at its end.

    A part without data says that another attempt has begun, whose first parts are not told. `request` is emptied when a
    broker has taken it. A broker that dies has the item on its disk: whoever serves the journal next is asked. When
    this is closed before the end, nobody wants the item any more, and it is cancelled. Raises `QueueFull` and what else
    a submit raises, `DeadlineExceeded` after `timeout_s`, and `Lost` where nobody serves the journal: the work may go
    on then.
    """
    until = math.inf if timeout_s is None else time.monotonic() + timeout_s
    seen = Seen()
    replies = brokers.call(app, request, timeout_s=timeout_s, taken_s=min(TAKEN_S, until - time.monotonic()))
    ticket, failures, away_since = "", 0, math.inf
    while True:
        began = time.monotonic()
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    failures, away_since = 0, math.inf
                    if reply.HasField("taken"):
                        ticket = reply.taken.ticket
                        request.ClearField("request")  # the broker has it, and the end may take long
                    elif reply.HasField("ended"):
                        for part in seen.rest(reply.ended) if parts and reply.ended.state == bpb.SUCCEEDED else ():
                            yield part
                        yield reply.ended
                        return
                    elif parts and seen.is_next(reply.part):
                        yield TicketPart(
                            reply.part.number, reply.part.attempt, reply.part.body, seen.bytes - len(reply.part.body)
                        )
                    elif parts and seen.wants_again:  # its beginning is not told on this connection
                        yield TicketPart(0, reply.part.attempt, b"")
        except Unavailable as error:
            if not ticket:
                raise
            now = time.monotonic()
            if now - began > _LASTED_S and not isinstance(error, NoHome):
                failures, away_since = 0, math.inf
            away_since = min(away_since, now)
            if now - away_since > AWAY_S:
                raise _lost(app, ticket) from error
        except DeadlineExceeded as error:
            if ticket or time.monotonic() >= until:
                raise
            raise Lost(f"no broker of {app} has answered in time; one may have the request, and do its work") from error
        if not ticket:
            raise DataLoss(f"a broker of {app} has ended a call without an answer")
        failures += 1
        await asyncio.sleep(_BACKOFF.delay_s(failures))
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"the item {_id(ticket)} did not end in time")
        replies = brokers.follow(
            app,
            ticket.partition(".")[0],
            bpb.FollowRequest(ticket=ticket, from_part=seen.next, attended=True),
            timeout_s=None if timeout_s is None else left_s,
            home_s=AWAY_S,
        )


def _id(ticket: str) -> str:
    return ticket.rpartition(".")[0]


def _lost(app: AppKey, ticket: str) -> Lost:
    return Lost(
        f"no broker of {app} serves the journal of the item {_id(ticket)} now; it is kept there, and its work may "
        "still be done"
    )
