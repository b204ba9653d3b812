"""proto/broker.proto ↔ items. Bodies are put into messages as the bytes that they are kept as. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from serving._proto import broker_pb2 as pb
from serving.broker.callbacks.policy import read_url, shown_url
from serving.broker.callbacks.records import CallbackState, Kept
from serving.broker.items import NEVER, Callback, Item, State
from serving.broker.partial_results import Part
from serving.broker.settings import LONGEST_TTL_S, BrokerSettings
from serving.errors import InvalidArgument, MeshError, NotFound, ResourceExhausted
from serving.problems import shown
from serving.sdk.tensors import varint

Metadata = Sequence[tuple[str, str | bytes]]
MAX_SUBMITS: Final = 1000
MAX_TICKETS: Final = 1000
MAX_WAIT_S: Final = 60.0
_TRACE: Final = ("traceparent", "tracestate")
_MAX_LABELS: Final = 16
_MAX_LABEL: Final = 64
_MAX_NAME: Final = 256
_MAX_METADATA: Final = 64
_LONGEST_S: Final = LONGEST_TTL_S
_ITEM_RESULT: Final = b"\x7a"  # field 15 of Item, length-delimited
_WORK: Final = b"\x12"  # field 2 of PullReply
_WORK_REQUEST: Final = b"\x1a"  # field 3 of Work
_ENDED: Final = b"\x12"  # field 2 of FollowReply
_MORE: Final = b"\x7a"  # field 15 of PullReply and ExchangeReply
_SUBMITTED: Final = b"\x12"  # field 2 of ExchangeReply
_ITEM: Final = b"\x1a"  # field 3
_LARGE: Final = b"\x2a"  # field 5
_TOGETHER: Final = 256 << 10  # bytes of several messages in one: each costs both sides a turn of gRPC
_OUTCOME: Final = b"\x0a"  # field 1 of GetManyReply
_FOUND: Final = b"\x0a"  # field 1 of GetOutcome


def read_submit(
    message: pb.SubmitRequest, settings: BrokerSettings, now: float, metadata: Mapping[str, str]
) -> tuple[Item, bytes]:
    """The item without its number, and its request. `metadata`: of the call, for the trace.

    Raises `InvalidArgument`, `NotFound`, `PermissionDenied` (its callback may not go there) or `ResourceExhausted`.
    """
    if message.deployment not in settings.deployments:
        raise NotFound(
            f"this broker takes no requests for deployment {shown(message.deployment)}; it takes them for "
            f"{', '.join(settings.deployments)}"
        )
    _check(message)
    if message.result_ttl_s > settings.max_result_ttl_s:
        raise InvalidArgument(
            f"result_ttl_s: this broker keeps results for at most {settings.max_result_ttl_s:g} s (max_result_ttl), "
            f"found {message.result_ttl_s:g}"
        )
    if message.request.WhichOneof("body") is None:
        raise InvalidArgument("request: nothing is asked: neither `infer` nor `http` is set")
    for name in _TRACE:
        if name in metadata and name not in message.request.metadata:
            message.request.metadata[name] = metadata[name]
    body = message.request.SerializeToString()
    if len(body) > settings.max_request_bytes:
        raise ResourceExhausted(
            f"the request has {len(body):,} bytes, this broker takes at most {settings.max_request_bytes:,}"
        )
    deadline = now + message.deadline_s if message.deadline_s else NEVER
    item = Item(
        0, message.deployment, message.tenant, message.idempotency_key, message.priority or pb.DEFAULT, now, deadline,
        message.expected_s, message.result_ttl_s, len(body), dict(message.labels),
        callback=_callback(message.callback, settings) if message.HasField("callback") else None,
        new_key=message.new_key,
    )  # fmt: skip
    return item, body


def _callback(message: pb.Callback, settings: BrokerSettings) -> Callback:
    states = read_states(message.states) if message.states else frozenset(one for one in State if not one.live)
    if any(state.live for state in states):
        raise InvalidArgument("callback.states: QUEUED and RUNNING are no ends")
    target = read_url(message.url, settings.callbacks)
    return Callback(target.url, target.receiver, message.secret_name, states)


def _check(message: pb.SubmitRequest) -> None:
    _check_text("tenant", message.tenant)
    _check_text("idempotency_key", message.idempotency_key)
    if message.priority not in pb.Priority.values():
        raise InvalidArgument(f"priority: {message.priority} is none of LOW (1), DEFAULT (2), HIGH (3)")
    for name in ("deadline_s", "expected_s", "result_ttl_s"):
        value = getattr(message, name)
        if not 0 <= value <= _LONGEST_S:  # also of what is no number
            raise InvalidArgument(f"{name}: {value:g} is out of range: 0 to {_LONGEST_S:g} s")
    if len(message.labels) > _MAX_LABELS:
        raise InvalidArgument(f"labels: {len(message.labels)} are more than {_MAX_LABELS}")
    for name, value in message.labels.items():
        if max(len(name.encode()), len(value.encode())) > _MAX_LABEL or "\0" in name + value:
            raise InvalidArgument(f"labels: {shown(name)} or its value is longer than {_MAX_LABEL} bytes, or has a NUL")
    if len(message.request.metadata) > _MAX_METADATA:
        raise InvalidArgument(f"request.metadata: {len(message.request.metadata)} are more than {_MAX_METADATA}")


def _check_text(field: str, text: str) -> None:
    if len(text.encode()) > _MAX_NAME or "\0" in text:
        raise InvalidArgument(f"{field}: {shown(text)} is longer than {_MAX_NAME} bytes, or has a NUL")


def read_states(states: Sequence[int]) -> frozenset[State]:
    """Raises `InvalidArgument`."""
    try:
        return frozenset(State(state) for state in states)
    except ValueError as error:
        raise InvalidArgument(f"states: {error}; they are 1 (QUEUED) to 7 (EXPIRED)") from error


def item_message(item: Item, journal: str, *, ticket: str = "", progress: float = 0.0) -> pb.Item:
    """Without its result."""
    made = pb.Item(
        ticket=ticket, id=f"{journal}.{item.number}", state=pb.State.Name(item.state), deployment=item.deployment,
        tenant=item.tenant, priority=pb.Priority.Name(item.priority), labels=item.labels, attempts=item.attempts,
        replica=item.replica, reason=item.reason, bytes=item.size_bytes, progress=progress,
        attempt=item.attempt,
    )  # fmt: skip
    for target, value in (("submitted", item.submitted), ("started", item.started), ("ended", item.ended)):
        if value:
            getattr(made, target).FromMicroseconds(round(value * 1_000_000))
    if item.deadline < NEVER:
        made.deadline.FromMicroseconds(round(item.deadline * 1_000_000))
    return made


def set_callback(made: pb.Item, kept: Kept) -> pb.Item:
    """Says what came of the item's callback."""
    record, callback = kept.record, kept.item.callback
    if callback is None:
        return made
    made.callback.CopyFrom(
        pb.CallbackStatus(
            state=pb.CallbackState.Name(record.state), url=shown_url(callback.url), secret_name=callback.secret,
            tries=record.tries, status=record.status, reason=record.reason,
        )
    )  # fmt: skip
    for target, value in (("due", record.due), ("next", record.next)):
        if value:
            getattr(made.callback, target).FromMicroseconds(round(value * 1_000_000))
    return made


def read_callback_state(state: int) -> CallbackState:
    """Whose list is wanted. Raises `InvalidArgument`."""
    if not state:
        return CallbackState.DEAD
    if state not in (CallbackState.DUE, CallbackState.DEAD):
        raise InvalidArgument(f"state: {state} is neither CALLBACK_DUE (2) nor CALLBACK_DEAD (4)")
    return CallbackState(state)


def item_bytes(item: pb.Item, result: bytes | None) -> bytes:
    """The `Item` with its result."""
    data = item.SerializeToString()
    return data if result is None else b"".join((data, _ITEM_RESULT, varint(len(result)), result))


def work_bytes(item: Item, item_id: str, now: float, request: bytes) -> bytes:
    """A `PullReply` with the work."""
    left_s = max(item.deadline - now, 0.001) if item.deadline < NEVER else 0.0
    head = pb.Work(
        item=item_id, attempt=item.attempt, left_s=left_s, priority=pb.Priority.Name(item.priority),
        wants_parts=True,
    ).SerializeToString()  # fmt: skip
    length = varint(len(request))
    size = len(head) + 1 + len(length) + len(request)
    return b"".join((_WORK, varint(size), head, _WORK_REQUEST, length, request))


def part_bytes(part: Part) -> bytes:
    made = pb.FollowReply(part=pb.Part(number=part.number, attempt=part.attempt, body=part.body))
    return made.SerializeToString()


def taken_bytes(reply: pb.SubmitReply) -> bytes:
    """A `FollowReply` that begins a call."""
    return pb.FollowReply(taken=reply).SerializeToString()


def ended_bytes(item: bytes) -> bytes:
    """A `FollowReply` with the `Item`."""
    return b"".join((_ENDED, varint(len(item)), item))


def read_result(message: pb.Result, most: int) -> tuple[State, bytes]:
    """What is kept of a replica's result. One that is too large has failed: another attempt would not change it.

    Raises `InvalidArgument` when there is none.
    """
    kind = message.WhichOneof("body")
    if kind is None:
        raise InvalidArgument("done.result: nothing is answered")
    body = message.SerializeToString()
    if len(body) > most:
        text = f"the result has {len(body):,} bytes, this broker keeps at most {most:,}"
        failure = pb.Failure(code=int(ResourceExhausted.code), message=text)
        return State.FAILED, pb.Result(failure=failure).SerializeToString()
    failed = kind == "failure" or (kind == "http" and message.http.status >= 400)
    return State.FAILED if failed else State.SUCCEEDED, body


def wait_of(given: float, left_s: float | None) -> float:
    """How long a Get may wait: what it wants, bounded, and within the call's deadline. Raises `InvalidArgument`."""
    if math.isnan(given) or given < 0:
        raise InvalidArgument(f"wait_s: {given:g} is below 0")
    return min(given, MAX_WAIT_S, math.inf if left_s is None else max(0.0, left_s - 0.1))


def joined(replies: Sequence[bytes]) -> bytes:
    """One `PullReply` or `ExchangeReply` of several; at least one."""
    first, *others = replies
    return b"".join((first, *(piece for other in others for piece in (_MORE, varint(len(other)), other))))


def together(outbox: deque[bytes]) -> list[bytes]:
    """Out of the outbox, at least one, as many as go together; for `joined`."""
    found = [outbox.popleft()]
    size = len(found[0])
    while outbox and size + len(outbox[0]) <= _TOGETHER:
        found.append(outbox.popleft())
        size += len(found[-1])
    return found


def exchanged_bytes(number: int, *, submitted: bytes | None = None, item: bytes | None = None) -> bytes:
    """An `ExchangeReply` with a `SubmitReply` or an `Item`; without both the item is `large`."""
    head = pb.ExchangeReply(id=number).SerializeToString()
    if submitted is not None:
        return b"".join((head, _SUBMITTED, varint(len(submitted)), submitted))
    if item is not None:
        return b"".join((head, _ITEM, varint(len(item)), item))
    return b"".join((head, _LARGE, varint(0)))


def found_bytes(item: bytes) -> bytes:
    """A `GetManyReply` with one `Item`; several are one when they are joined."""
    found = b"".join((_FOUND, varint(len(item)), item))
    return b"".join((_OUTCOME, varint(len(found)), found))


def refused_bytes(error: MeshError) -> bytes:
    """A `GetManyReply` with an error, as above."""
    outcome = pb.GetOutcome(refused=pb.Failure(code=int(error.code), message=error.message))
    return pb.GetManyReply(outcomes=[outcome]).SerializeToString()
