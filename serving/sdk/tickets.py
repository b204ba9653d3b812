"""Requests that wait at a broker: the ticket that a client gets, and what it can do with it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.control import Backoff
from serving.errors import (
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
)
from serving.sdk import calls
from serving.sdk.broker_errors import QueueFull
from serving.sdk.brokers import Brokers
from serving.sdk.item_results import raise_unless_succeeded
from serving.sdk.parts import Place, Seen, TicketPart
from serving.sdk.tensors import Array, decode_response
from serving.store.keys import AppKey
from serving.types import is_name

TICKET_TIMEOUT_S: Final = 15.0
POLL_S: Final = 20.0  # a question for a result waits so long at the broker
AWAY_S: Final = 120.0  # for so long nobody may serve the ticket's journal
ENDED: Final = ("SUCCEEDED", "FAILED", "DEAD", "CANCELLED", "EXPIRED")
STATES: Final = ("QUEUED", "RUNNING", *ENDED)
_BACKOFF: Final = Backoff(first_s=0.05, limit_s=1.0, jitter=0.5)
_MOST_FAILURES: Final = 120  # in a row, a second apart

Result: TypeAlias = "dict[str, Array] | list[dict[str, Array]] | Any"
"""Outputs by name; of a decoupled model a list of them; of an OpenAI body the JSON object; of a stream its text."""


@dataclass(frozen=True, slots=True)
class CallbackStatus:
    """What came of a callback: `state` is WAITS, DUE, DELIVERED, DEAD or UNWANTED; `status` of HTTP, 0: no answer.

    `url` is without its query. `due` is since when it is sent, `next` when it is tried next.
    """

    state: str
    url: str
    secret: str
    tries: int
    status: int
    reason: str
    due: datetime | None
    next: datetime | None

    @classmethod
    def from_record(cls, record: bpb.CallbackStatus) -> CallbackStatus:
        return cls(
            state=bpb.CallbackState.Name(record.state).removeprefix("CALLBACK_"),
            url=record.url,
            secret=record.secret_name,
            tries=record.tries,
            status=record.status,
            reason=record.reason,
            due=_time(record, "due"),
            next=_time(record, "next"),
        )


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A request at a broker. `id` is `<journal>.<number>`, unknown times are None, `progress` is 0 to 1.

    `callback` is None where none was asked for, and in lists but those of callbacks.
    """

    id: str
    state: str
    deployment: str
    tenant: str
    priority: str
    labels: Mapping[str, str]
    attempts: int
    replica: str
    reason: str
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    deadline: datetime | None
    bytes: int
    progress: float
    callback: CallbackStatus | None = None

    @classmethod
    def from_record(cls, item: bpb.Item) -> QueueItem:
        return cls(
            id=item.id,
            state=bpb.State.Name(item.state),
            deployment=item.deployment,
            tenant=item.tenant,
            priority=bpb.Priority.Name(item.priority or bpb.DEFAULT).lower(),
            labels=dict(item.labels),
            attempts=item.attempts,
            replica=item.replica,
            reason=item.reason,
            submitted=_time(item, "submitted"),
            started=_time(item, "started"),
            ended=_time(item, "ended"),
            deadline=_time(item, "deadline"),
            bytes=item.bytes,
            progress=item.progress,
            callback=CallbackStatus.from_record(item.callback) if item.HasField("callback") else None,
        )


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Of one deployment at one broker; counters are from the start of its process."""

    broker: str
    deployment: str
    queued: int
    running: int
    dead: int
    queued_bytes: int
    oldest_age_s: float
    credits: int
    replicas: int
    submitted: int
    succeeded: int
    failed: int
    requeued: int
    drained: bool  # the broker takes no new requests


@dataclass(frozen=True, slots=True)
class BrokerDrain:
    """Of one broker. `live` items wait or run there; `items` are kept in all, results included."""

    broker: str
    drained: bool
    live: int
    items: int


class Ticket:
    """A request that was submitted. `str(ticket)` can be kept: `client.ticket(text)` makes the ticket of it again."""

    def __init__(self, app: AppKey, text: str, ask: calls.Proceed, brokers: Brokers, *, repeated: bool = False) -> None:
        """`repeated`: the idempotency key was known, this is the first request's ticket."""
        self.app = app
        self.repeated = repeated
        self._text = text
        self._ask = ask
        self._brokers = brokers

    def __str__(self) -> str:
        return f"{self.app}/{self._text}"

    def __repr__(self) -> str:
        return f"Ticket({self.id!r} of {self.app})"  # without its secret

    @property
    def id(self) -> str:
        """`<journal>.<number>`, which lists and logs show."""
        return self._text.rpartition(".")[0]

    # ------------------------------------------------------------------------------------------------ where it is

    async def info(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """The item as it is now. Raises `NotFound` when it is not kept any more."""
        return QueueItem.from_record(await self._item("get", timeout_s=timeout_s))

    async def state(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> str:
        """`QUEUED`, `RUNNING`, `SUCCEEDED`, `FAILED`, `DEAD`, `CANCELLED` or `EXPIRED`."""
        return (await self.info(timeout_s=timeout_s)).state

    async def cancel(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """One that waits is cancelled at once, one that runs is told to stop; one that has ended stays as it is."""
        return QueueItem.from_record(await self._item("cancel", timeout_s=timeout_s))

    async def retry(self, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """Puts one back that is DEAD, EXPIRED or CANCELLED. Raises `FailedPrecondition` for any other."""
        return QueueItem.from_record(await self._item("retry", timeout_s=timeout_s))

    async def result(self, *, timeout_s: float | None = None) -> Result:
        """Waits for the end; None waits without an end.

        Raises the replica's own error, `FailedPrecondition` when its attempts were used up, `Cancelled`,
        `DeadlineExceeded` when the item's deadline or `timeout_s` has passed, and `Unavailable` when nobody serves the
        ticket's journal for two minutes.
        """
        return _result_of(await self._ended(math.inf if timeout_s is None else time.monotonic() + timeout_s))

    async def _ended(self, until: float) -> bpb.Item:
        """The item at its end."""
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"the item {self.id} did not end in time")
            item = await self._item("get", wait_s=min(POLL_S, left_s), timeout_s=min(AWAY_S, left_s + POLL_S))
            if bpb.State.Name(item.state) in ENDED:
                return item

    async def _item(self, action: str, *, wait_s: float = 0.0, timeout_s: float) -> bpb.Item:
        item = await self._ask(calls.ItemCall(self.app, self._text, action, wait_s, timeout_s))
        if not isinstance(item, bpb.Item):
            raise DataLoss(f"an interceptor answered ItemCall with {type(item).__name__}")
        return item

    # ------------------------------------------------------------------------------------------------ its parts

    def __aiter__(self) -> AsyncIterator[TicketPart]:
        return self.parts()

    async def parts(
        self, *, after: Place | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[TicketPart, None]:
        """Pieces of the result as they are made, to its end; then as `result` raises.

        What was not caught while it was made, comes at the end, so that all parts of the last attempt are the result.
        `after`: only what follows that place of it, unless another attempt has begun since.
        """
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        seen = Seen(after)
        failures = 0
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"the item {self.id} did not end within {timeout_s:g} s")
            request = bpb.FollowRequest(ticket=self._text, from_part=seen.next)
            replies = self._brokers.follow(
                self.app,
                self.id.rpartition(".")[0],
                request,
                timeout_s=None if timeout_s is None else left_s,
                home_s=AWAY_S,
            )
            try:
                async for reply in replies:
                    failures = 0
                    if reply.HasField("ended"):
                        for part in seen.rest(reply.ended):
                            yield part
                        return
                    if seen.is_next(reply.part):
                        yield TicketPart(
                            reply.part.number, reply.part.attempt, reply.part.body, seen.bytes - len(reply.part.body)
                        )
                    elif seen.wants_again:
                        break
            except QueueFull:  # the parts that come next are not kept any more: the result has them
                for part in seen.rest(await self._ended(until)):
                    yield part
                return
            except Unavailable:
                if failures > _MOST_FAILURES:
                    raise
            failures += 1
            await asyncio.sleep(_BACKOFF.delay_s(failures))


def read_ticket(text: str) -> tuple[AppKey, str]:
    """`namespace/application/<journal>.<number>.<secret>`. Raises `InvalidArgument`."""
    parts = text.split("/")
    if len(parts) != 3 or not (is_name(parts[0]) and is_name(parts[1])) or parts[2].count(".") != 2:
        raise InvalidArgument(f"{text[:100]!r} is no ticket; one is the text of what `submit` answered")
    return AppKey(parts[0], parts[1]), parts[2]


def _result_of(item: bpb.Item) -> Result:
    raise_unless_succeeded(item)
    kind = item.result.WhichOneof("body")
    if kind == "infer":
        return _outputs(item.result.infer)
    if kind == "infers":
        return [_outputs(one) for one in item.result.infers.responses]
    answer = item.result.http
    if answer.content_type.startswith("application/json"):
        return json.loads(answer.body)
    return answer.body.decode("utf-8", "replace")


def _outputs(data: bytes) -> dict[str, Array]:
    return decode_response(service_pb2.ModelInferResponse.FromString(data))


def _time(item: bpb.Item | bpb.CallbackStatus, name: str) -> datetime | None:
    stamp: Timestamp = getattr(item, name)
    return stamp.ToDatetime(timezone.utc) if stamp.ByteSize() else None


def statistics_rows(broker: str, reply: bpb.StatisticsReply) -> Sequence[QueueStatistics]:
    names = [name for name in QueueStatistics.__slots__ if name not in ("broker", "drained")]
    return [
        QueueStatistics(broker, drained=reply.drained, **{name: getattr(row, name) for name in names})
        for row in reply.queues
    ]
