"""What a client does with the queues of an application's brokers: submit, look, cancel, retry."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import TypedDict, Unpack

from serving._proto import broker_pb2 as bpb
from serving.errors import Internal, InvalidArgument
from serving.sdk import calls
from serving.sdk._app_names import AppName, app_key
from serving.sdk.brokers import Brokers
from serving.sdk.tensors import Parameter, encode_request
from serving.sdk.tickets import (
    ENDED,
    STATES,
    TICKET_TIMEOUT_S,
    BrokerDrain,
    QueueItem,
    QueueStatistics,
    Ticket,
    read_ticket,
    statistics_rows,
)

SUBMIT_TIMEOUT_S: Final = 30.0
PRIORITIES: Final = ("low", "default", "high")
MOST_LISTED: Final = 10_000
CALLBACK_LISTS: Final = ("DEAD", "DUE")
_PAGE: Final = 1000
_CHAT: Final = "/v1/chat/completions"
_ACTIONS: Final = {
    "get": ("Get", bpb.GetRequest),
    "cancel": ("Cancel", bpb.CancelRequest),
    "retry": ("Retry", bpb.RetryRequest),
    "retry_callback": ("RetryCallback", bpb.RetryCallbackRequest),
}


@dataclass(frozen=True, slots=True)
class Callback:
    """What is POSTed when a request has ended, as https://www.standardwebhooks.com says (`serving.verify_webhook`).

    `secret` is the name of one of the broker's, that signs it; without it, it is not signed. `states` are the ends that
    are told of, `"SUCCEEDED"`, `"FAILED"`, `"DEAD"`, `"CANCELLED"`, `"EXPIRED"`; empty: all.
    """

    url: str
    secret: str = ""
    states: Sequence[str] = ()


class SubmitOptions(TypedDict, total=False):
    """What `submit` takes by keyword.

    Of a request with inputs: `model` (by default the deployment's name), `version`, `outputs`, `parameters`,
    `request_id`, as for `infer`. Of one for OpenAI's protocol: `body` and `path` (by default that of chats).
    `metadata` goes to the replica, as gRPC metadata or HTTP headers.

    Of the item: `priority` is "low", "default" or "high"; `deadline_s` from now, after which it is not started and what
    runs is stopped; `expected_s` is how long it will take, as far as is known; `tenant` gets a fair share;
    `idempotency_key`: whoever submits it again gets the same ticket; `labels` are for lists and predictions;
    `result_ttl_s` is how long its result is kept; `callback` is where its end is told, a URL or a `Callback`.
    `timeout_s` is for the submission itself.
    """

    body: Mapping[str, Any]
    path: str
    model: str
    version: str
    outputs: Sequence[str]
    parameters: Mapping[str, Parameter]
    request_id: str
    metadata: Mapping[str, str]
    priority: str
    deadline_s: float
    expected_s: float
    tenant: str
    idempotency_key: str
    labels: Mapping[str, str]
    result_ttl_s: float
    callback: str | Callback
    timeout_s: float


class QueueClient:
    """`AsyncMeshClient.queue`. Calls go through the client's interceptors."""

    def __init__(self, handle: calls.Proceed, brokers: Brokers) -> None:
        self._handle = handle
        self._brokers = brokers

    async def submit(
        self, app: AppName, deployment: str, inputs: Mapping[str, Any] | None, **options: Unpack[SubmitOptions]
    ) -> Ticket:
        """See `AsyncMeshClient.submit`."""
        key, request = app_key(app), _submit_request(deployment, inputs, options)
        reply = await self._handle(calls.SubmitCall(key, request, options.get("timeout_s", SUBMIT_TIMEOUT_S)))
        if not isinstance(reply, bpb.SubmitReply):
            raise Internal(f"an interceptor answered SubmitCall with {type(reply).__name__}")
        return Ticket(key, reply.ticket, self._handle, self._brokers, repeated=reply.repeated)

    def ticket(self, text: str) -> Ticket:
        """Raises `InvalidArgument`."""
        app, ticket = read_ticket(text)
        return Ticket(app, ticket, self._handle, self._brokers)

    async def list(
        self,
        app: AppName,
        *,
        deployment: str = "",
        tenant: str = "",
        states: Sequence[str] = (),
        limit: int = 100,
        timeout_s: float = TICKET_TIMEOUT_S,
    ) -> tuple[QueueItem, ...]:
        """The items of all brokers of the application, the oldest first, at most `limit` (10,000)."""
        found = await self._handle(
            calls.ListItemsCall(app_key(app), deployment, tenant, tuple(states), limit, timeout_s)
        )
        return tuple(found)

    async def statistics(self, app: AppName, *, timeout_s: float = TICKET_TIMEOUT_S) -> tuple[QueueStatistics, ...]:
        """A row for each broker and deployment."""
        return tuple(await self._handle(calls.QueueStatisticsCall(app_key(app), timeout_s)))

    async def drain(
        self,
        app: AppName,
        broker: str = "",
        *,
        undo: bool = False,
        discard_s: float = 0.0,
        timeout_s: float = TICKET_TIMEOUT_S,
    ) -> tuple[BrokerDrain, ...]:
        """Has a broker, or all of the application, take no new requests; with `undo`, take them again.

        What is there is worked off, and results stay until they are fetched or their time is over: `statistics` shows
        when nothing is left. It holds until it is undone or another broker comes in its place. With `discard_s` brokers
        that leave within so many seconds, at most 3600, remove their journals with all that is in them: say so before
        the application is deleted, where nothing is to be left of it. Raises `NotFound`.
        """
        call = calls.DrainBrokersCall(app_key(app), broker, undo, discard_s, timeout_s)
        return tuple(await self._handle(call))

    async def item(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """By its id, without its result, which only its ticket gives. Raises `NotFound`."""
        return await self._by_id(app, item_id, "get", timeout_s)

    async def cancel(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """By its id. One that has ended stays as it is. Raises `NotFound`."""
        return await self._by_id(app, item_id, "cancel", timeout_s)

    async def retry(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """By its id. Raises `NotFound`, and `FailedPrecondition` unless it is DEAD, EXPIRED or CANCELLED."""
        return await self._by_id(app, item_id, "retry", timeout_s)

    async def callbacks(
        self, app: AppName, *, state: str = "DEAD", limit: int = 100, timeout_s: float = TICKET_TIMEOUT_S
    ) -> tuple[QueueItem, ...]:
        """The requests of all brokers whose callbacks are DEAD (given up) or DUE, the oldest first, at most `limit`."""
        return tuple(await self._handle(calls.ListCallbacksCall(app_key(app), state, limit, timeout_s)))

    async def retry_callback(self, app: AppName, item_id: str, *, timeout_s: float = TICKET_TIMEOUT_S) -> QueueItem:
        """Sends a callback again that is DEAD, and one that is DUE at once, by the request's id.

        Raises `NotFound`, and `FailedPrecondition` for others.
        """
        return await self._by_id(app, item_id, "retry_callback", timeout_s)

    async def _by_id(self, app: AppName, item_id: str, action: str, timeout_s: float) -> QueueItem:
        item = await self._handle(calls.ItemCall(app_key(app), item_id, action, 0.0, timeout_s))
        if not isinstance(item, bpb.Item):
            raise Internal(f"an interceptor answered ItemCall with {type(item).__name__}")
        return QueueItem.from_record(item)


class QueueHandlers:
    """What answers the calls at the end of the interceptors."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self.by_call: dict[type, Callable[[Any], Awaitable[Any]]] = {
            calls.SubmitCall: self._submit,
            calls.ItemCall: self._item,
            calls.ListItemsCall: self._list,
            calls.ListCallbacksCall: self._list_callbacks,
            calls.QueueStatisticsCall: self._statistics,
            calls.DrainBrokersCall: self._drain,
        }

    async def _submit(self, call: calls.SubmitCall) -> bpb.SubmitReply:
        return await self._brokers.submit(call.app, call.request, call.timeout_s)

    async def _item(self, call: calls.ItemCall) -> bpb.Item:
        parts = call.ticket.split(".")
        if call.action not in _ACTIONS or len(parts) not in (2, 3) or not parts[1].isdigit():
            raise InvalidArgument(f"{call.ticket[:100]!r} is no id of an item, such as those that `list` shows")
        method, made = _ACTIONS[call.action]
        request: Any = made(ticket=call.ticket)
        if call.action == "get":
            request.wait_s = call.wait_s
        item: bpb.Item = await self._brokers.ask(
            call.app, parts[0], method, request, wait_s=call.wait_s, timeout_s=call.timeout_s
        )
        return item

    async def _list(self, call: calls.ListItemsCall) -> list[QueueItem]:
        unknown = [name for name in call.states if name not in STATES]
        if unknown:
            raise InvalidArgument(f"state {unknown[0]!r} is not known; allowed are {', '.join(STATES)}")
        request = bpb.ListRequest(deployment=call.deployment, tenant=call.tenant, states=list(call.states))
        return await self._pages(call, "List", request)

    async def _list_callbacks(self, call: calls.ListCallbacksCall) -> list[QueueItem]:
        if call.state not in CALLBACK_LISTS:
            raise InvalidArgument(f"state {call.state!r} is not known; allowed are {', '.join(CALLBACK_LISTS)}")
        return await self._pages(call, "ListCallbacks", bpb.ListCallbacksRequest(state=f"CALLBACK_{call.state}"))

    async def _pages(
        self, call: calls.ListItemsCall | calls.ListCallbacksCall, method: str, request: Any
    ) -> list[QueueItem]:
        if not 0 < call.limit <= MOST_LISTED:
            raise InvalidArgument(f"limit {call.limit} is out of range: 1 to {MOST_LISTED}")
        request.limit = min(call.limit, _PAGE)
        found = await self._brokers.pages(call.app, method, request, limit=call.limit, timeout_s=call.timeout_s)
        found.sort(key=lambda item: item.submitted.ToNanoseconds())
        return [QueueItem.from_record(item) for item in found[: call.limit]]

    async def _statistics(self, call: calls.QueueStatisticsCall) -> list[QueueStatistics]:
        answers = await self._brokers.everywhere(
            call.app, "Statistics", bpb.StatisticsRequest(), timeout_s=call.timeout_s
        )
        return [row for endpoint, reply in answers for row in statistics_rows(endpoint.id, reply)]

    async def _drain(self, call: calls.DrainBrokersCall) -> list[BrokerDrain]:
        request = bpb.DrainRequest(undo=call.undo, discard_s=call.discard_s)
        answers = await self._brokers.everywhere(call.app, "Drain", request, timeout_s=call.timeout_s, only=call.broker)
        return [BrokerDrain(one.id, reply.drained, reply.live, reply.items) for one, reply in answers]


def _submit_request(deployment: str, inputs: Mapping[str, Any] | None, options: SubmitOptions) -> bpb.SubmitRequest:
    """Raises `InvalidArgument` for what no broker takes."""
    priority = options.get("priority", "default")
    if priority not in PRIORITIES:
        raise InvalidArgument(f"priority {priority!r} is not known; allowed are {', '.join(PRIORITIES)}")
    numbers = {name: float(options.get(name, 0.0)) for name in ("deadline_s", "expected_s", "result_ttl_s")}  # type: ignore[arg-type]
    wrong = [name for name, value in numbers.items() if not 0 <= value < float("inf")]
    if wrong:
        raise InvalidArgument(f"{wrong[0]} is {numbers[wrong[0]]:g}; seconds from 0 on are wanted")
    try:
        return bpb.SubmitRequest(
            deployment=deployment,
            request=_body(deployment, inputs, options),
            tenant=options.get("tenant", ""),
            idempotency_key=options.get("idempotency_key", ""),
            priority=priority.upper(),
            labels=dict(options.get("labels", {})),
            deadline_s=numbers["deadline_s"],
            expected_s=numbers["expected_s"],
            result_ttl_s=numbers["result_ttl_s"],
            callback=_callback(options.get("callback")),
        )
    except (TypeError, ValueError) as error:  # protobuf's answer to names and texts of the wrong kind
        raise InvalidArgument(f"the request for {deployment!r} is malformed: {error}") from error


def _callback(wanted: str | Callback | None) -> bpb.Callback | None:
    if wanted is None:
        return None
    callback = Callback(wanted) if isinstance(wanted, str) else wanted
    unknown = [name for name in callback.states if name not in ENDED]
    if unknown:
        raise InvalidArgument(f"callback: {unknown[0]!r} is no end of a request; there are {', '.join(ENDED)}")
    return bpb.Callback(url=callback.url, secret_name=callback.secret, states=list(callback.states))


def _body(deployment: str, inputs: Mapping[str, Any] | None, options: SubmitOptions) -> bpb.Request:
    metadata = {name.lower(): value for name, value in options.get("metadata", {}).items()}
    body = options.get("body")
    if (inputs is None) == (body is None):
        raise InvalidArgument("give either inputs, as for `infer`, or `body`, a dict as OpenAI's API takes it")
    if body is not None:
        call = bpb.HttpCall(path=options.get("path", _CHAT), body=json.dumps(body, allow_nan=False).encode())
        return bpb.Request(http=call, metadata=metadata)
    request = encode_request(
        options.get("model", deployment),
        inputs or {},
        outputs=options.get("outputs"),
        version=options.get("version", ""),
        request_id=options.get("request_id", ""),
        parameters=options.get("parameters"),
    )
    return bpb.Request(infer=request.SerializeToString(), metadata=metadata)
