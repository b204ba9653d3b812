"""Requests of deployments with `dispatch: pull`: brought to their broker, and answered on the client's connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker.clients import GONE
from serving.errors import Internal, MeshError, NotSupported, Unavailable
from serving.gateway.catalog import Offer
from serving.gateway.forwarding import ANSWERED_BY, Request, TargetLeft
from serving.gateway.instruments import Instruments
from serving.gateway.kserve_rest import Target, target_of
from serving.gateway.passing import EVENT_END
from serving.gateway.queued import kserve_json
from serving.gateway.queued.journals import FullQueue, Journals
from serving.gateway.queued.objects import INFER, own_labels
from serving.gateway.queued.targets import QueueTargets
from serving.gateway.splits import Splits
from serving.openai.json_body import PARSED_APART
from serving.sdk.attended import RESULT_TTL_S, Lost
from serving.sdk.item_results import error_of
from serving.sdk.parts import TicketPart
from serving.store.keys import AppKey
from serving.wire import TIMEOUT, Wire

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_EVENTS: Final = "text/event-stream"
_INFER: Final = "infer"
_LEAST_S: Final = 0.001
_NOT_METADATA: Final = frozenset({"content-type", "accept-encoding", TIMEOUT.decode()})  # said otherwise, or of no use
_OK: Final = 200
_ERROR: Final = b'data: {"error":'
_REPLICA: Final = "x-mesh-replica"


class AttemptLost(Internal):
    """The replica that had begun a stream is gone: what another one answers may be another text."""

    error_code = "attempt_lost"

    def __init__(self) -> None:
        super().__init__("the replica broke off its answer, and another one has begun anew; send the request again")


class _NoAnswer(Unavailable):
    """A broker has taken the request, and its work has come to nothing: another model is not asked for it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """How an item's answer is wanted. `target` None: in OpenAI's protocol."""

    offer: Offer
    target: Target | None
    form: kserve_json.AnswerForm = field(default_factory=kserve_json.AnswerForm)


class BrokerForwarder:
    """Belongs to one event loop."""

    def __init__(
        self,
        journals: Journals,
        targets: QueueTargets,
        splits: Splits,
        instruments: Instruments,
        max_body_bytes: int,
    ) -> None:
        self._journals = journals
        self._targets = targets
        self._splits = splits
        self._instruments = instruments
        self._max_body_bytes = max_body_bytes

    async def forwarded(self, request: Request, wire: Wire) -> bool:
        """False where the request is not for a deployment that gets its requests through a broker.

        Raises `FullQueue`, `Unavailable`, `DeadlineExceeded`, the replica's own error, `NotSupported` for what no
        broker carries; with `spare` `TargetLeft` where another model is to be asked.
        """
        app = AppKey(request.key.namespace, request.key.application)
        if request.method != "POST" or not self._targets.pulls(app):
            return False
        target = target_of(request.path)
        offer = self._targets.catalog(openai=target is None).get(request.key)
        if offer is None:
            return False
        request.chosen = await self._splits.choose(request.key, request.lookup, request.session, request.chosen)
        deployment = self._targets.pulled(offer, request.chosen)
        if not deployment:
            return False
        self._instruments.on_side(str(app), request.chosen.sides, spared=False)
        self._instruments.pulled.inc()
        asked, content = await self._asked(request, offer, target)
        item = self._item(request, content, deployment, wire)
        del content  # bodies are not held for as long as the item waits
        try:
            await self._answer(app, item, request, asked, wire)
        except (Lost, _NoAnswer):
            raise
        except (FullQueue, Unavailable) as error:
            if request.spare and not wire.status:
                raise TargetLeft(error, full=isinstance(error, FullQueue)) from error
            raise
        return True

    async def _asked(self, request: Request, offer: Offer, target: Target | None) -> tuple[_Asked, bpb.Request]:
        if target is None:
            return _Asked(offer, None), bpb.Request(http=bpb.HttpCall(path=request.path, body=request.body))
        if target.action != _INFER:
            raise NotSupported(
                f"`{target.action}` of {request.key} is not supported, as its requests go through a broker (`dispatch: "
                f"pull`): send `{_INFER}`, or ask a replica itself (`mesh endpoints` shows the addresses)"
            )
        length = request.headers.get(kserve_json.HEADER_LENGTH, "")
        given = (request.body, length, request.key.model, target.version, self._max_body_bytes)
        if len(request.body) > PARSED_APART:
            message, form = await asyncio.to_thread(kserve_json.read_infer, *given)
        else:
            message, form = kserve_json.read_infer(*given)
        return _Asked(offer, target, form), bpb.Request(infer=message.SerializeToString())

    @staticmethod
    def _item(request: Request, content: bpb.Request, deployment: str, wire: Wire) -> bpb.SubmitRequest:
        path = content.http.path if content.HasField("http") else INFER
        for name, value in request.headers.items():
            if name not in _NOT_METADATA:
                content.metadata[name] = value
        left_s = wire.time_left_s()
        return bpb.SubmitRequest(
            deployment=deployment,
            request=content,
            tenant=request.tenant,
            deadline_s=0.0 if left_s is None else max(left_s, _LEAST_S),
            labels=own_labels(request.key, path),
            result_ttl_s=RESULT_TTL_S,
        )

    # ------------------------------------------------------------------------------------------------ the answer

    async def _answer(self, app: AppKey, item: bpb.SubmitRequest, request: Request, asked: _Asked, wire: Wire) -> None:
        timeout_s = item.deadline_s or None
        streams = asked.target is None
        if not request.spare:
            request.body = b""  # it is in the item
        async with contextlib.aclosing(self._journals.call(app, item, timeout_s=timeout_s, parts=streams)) as found:
            passed = _Stream(request, wire)
            async for each in found:
                if isinstance(each, TicketPart):
                    await passed.take(each)
                else:
                    await self._end(each, passed, request, asked, wire)

    async def _end(self, item: bpb.Item, passed: _Stream, request: Request, asked: _Asked, wire: Wire) -> None:
        endpoint = next((one for one in asked.offer.endpoints if one.id == item.replica), None)
        if wire.status:
            error = _no_answer(item)
            if error is not None and not (passed.told_error and item.state == bpb.FAILED):
                raise error
            await passed.end(endpoint)
            return
        kind = item.result.WhichOneof("body")
        if kind != "http":
            error = _no_answer(item)
            if error is not None:
                raise error
        wire.add_header(ANSWERED_BY, str(request.key))
        wire.add_header(_REPLICA, item.replica)
        if kind == "http":
            await _pass_whole(item.result.http, endpoint, request, wire)
        else:
            await _pass_tensors(item, asked, request, wire)


class _Stream:
    """A stream of events on its way to the client, whole events at a time.

    `told_error`: the last of them is an error, which the replica has told.
    """

    def __init__(self, request: Request, wire: Wire) -> None:
        self._request = request
        self._wire = wire
        self._attempt = 0
        self._rest = b""
        self.told_error = False

    async def take(self, part: TicketPart) -> None:
        """Raises `AttemptLost` when another attempt has begun after the client has seen something of this one.

        What comes first of an answer that is no stream is all of it: its end tells what it is.
        """
        if not self._wire.status:
            if not part.data.startswith((b"data:", b"event:", b":")):
                return
            self._attempt = part.attempt
            head = {"content-type": _EVENTS}
            self._begin(head)
            await self._wire.begin_events()
        if part.attempt != self._attempt:
            raise AttemptLost
        self._request.recorder.add(part.data)
        self._rest += part.data
        end = self._rest.rfind(EVENT_END) + len(EVENT_END)
        if end >= len(EVENT_END):
            events, self._rest = self._rest[:end], self._rest[end:]
            self.told_error = events[: -len(EVENT_END)].rpartition(EVENT_END)[2].startswith(_ERROR)
            await self._wire.send(events if self._request.usage is None else self._request.usage.events(events))

    def _begin(self, head: Mapping[str, str]) -> None:
        request = self._request
        self._wire.add_header(ANSWERED_BY, str(request.key))
        if request.usage is not None:
            request.usage.begin(_OK, head)
        request.recorder.begin(_OK, head, pb.Endpoint())

    async def end(self, endpoint: pb.Endpoint | None) -> None:
        """The whole stream has passed; `endpoint` made it, where that is still known."""
        if endpoint is not None:
            self._request.recorder.endpoint = endpoint
            self._request.recorder.end()
        await self._wire.end(self._rest)


async def _pass_whole(answer: bpb.HttpAnswer, endpoint: pb.Endpoint | None, request: Request, wire: Wire) -> None:
    """An answer that came in one, also an error of the replica."""
    head = {"content-type": answer.content_type or _JSON}
    if request.usage is not None:
        request.usage.begin(answer.status, head)
        request.usage.body(answer.body)
    if endpoint is not None:
        request.recorder.begin(answer.status, head, endpoint)
        request.recorder.add(answer.body)
        request.recorder.end()
    await wire.answer_bytes(answer.status, answer.body, head["content-type"])


async def _pass_tensors(item: bpb.Item, asked: _Asked, request: Request, wire: Wire) -> None:
    answers = [item.result.infer] if item.result.HasField("infer") else list(item.result.infers.responses)
    if len(answers) != 1:
        raise NotSupported(
            f"{request.key} has answered {len(answers)} times, and this protocol has one answer: use ModelStreamInfer "
            "over gRPC, or submit it (docs/guides/queue.md)"
        )
    if request.usage is not None:
        request.usage.begin(_OK, {})
    if len(answers[0]) > PARSED_APART:  # text of many numbers takes long
        body, json_bytes = await asyncio.to_thread(kserve_json.formed_answer, answers[0], asked.form)
    else:
        body, json_bytes = kserve_json.formed_answer(answers[0], asked.form)
    if json_bytes == len(body):
        await wire.answer_bytes(_OK, body, _JSON)
    else:
        await wire.answer_bytes(_OK, body, _BINARY, {kserve_json.HEADER_LENGTH: str(json_bytes)})


def _no_answer(item: bpb.Item) -> MeshError | None:
    """What a client that waits is told of an item's end; None where it has an answer."""
    error = error_of(item)
    if error is not None and (item.state == bpb.DEAD or (item.state == bpb.CANCELLED and item.reason == GONE)):
        return _NoAnswer(error.message)
    return error
