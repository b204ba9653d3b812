"""`background: true` of `/v1/responses`: a queued request in the words of OpenAI's API.

Source: https://platform.openai.com/docs/guides/background and /docs/api-reference/responses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from serving._proto import broker_pb2 as bpb
from serving.errors import MeshError, NotFound
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.events import PING, send
from serving.gateway.queued.following import pieces
from serving.gateway.queued.ids import QueuedId, UnknownRequest, read_response_id
from serving.gateway.queued.journals import Journals
from serving.gateway.queued.objects import PATH_LABEL, has_ended
from serving.gateway.queued.options import read_options
from serving.gateway.queued.query import fields, flag, number
from serving.gateway.queued.response_object import (
    BACKGROUND_PATH,
    EVENTS_OF_AN_ATTEMPT,
    HEAD,
    attempt_of,
    event_of,
    response_of,
)
from serving.gateway.queued.submitting import Submitter
from serving.openai import sse
from serving.openai.errors import InvalidRequest
from serving.openai.responses import read_background_request

_QUERY: Final = ("stream", "starting_after", "include_obfuscation")
_ENDS: Final = {bpb.CANCELLED: "response.cancelled"}  # others: response.failed


class Background:
    """Belongs to one event loop."""

    def __init__(self, submitter: Submitter, journals: Journals) -> None:
        self._submitter = submitter
        self._journals = journals

    async def create(self, body: dict[str, Any], asker: Asker) -> None:
        """Answers a `POST /v1/responses` whose body says `background: true`."""
        options = read_options(asker.wire.header)
        request = read_background_request(body)
        own = {field: value for field, value in body.items() if field not in ("background", "store")}
        # As a stream, so that it can be followed; its last event is the whole answer.
        done = await self._submitter.openai(BACKGROUND_PATH, {**own, "stream": True}, options, asker)
        if request.stream:
            await send(self._followed(done.name, asker, None), asker.wire)
            return
        known = request if not done.repeated else None
        await asker.wire.answer(200, response_of(done.name, done.item, known))

    async def answer(self, rest: str, asker: Asker) -> None:
        """`GET /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`."""
        text, _, action = rest.partition("/")
        name = read_response_id(text)
        path = asker.call.path = f"{BACKGROUND_PATH}/{{id}}" + (f"/{action}" if action else "")
        if action not in ("", "cancel"):
            raise NotFound(f"there is no {path[:100]} here")
        asker.call.want(asker.wire, "POST" if action else "GET")
        await asker.wire.read_body(1 << 20)
        await asker.wire.unless_gone(self._cancel(name, asker) if action else self._retrieve(name, asker), asker.cut)

    async def _retrieve(self, name: QueuedId, asker: Asker) -> None:
        query = fields(asker.scope, _QUERY)
        after = number(query, "starting_after")
        flag(query, "include_obfuscation")  # nothing is obfuscated
        if flag(query, "stream"):
            await send(self._followed(name, asker, after), asker.wire)
            return
        if after is not None:
            raise InvalidRequest(
                "`starting_after` can only be given where `stream` is true",
                param="starting_after",
                error_code="invalid_value",
            )
        await asker.wire.answer(200, response_of(name, await self._item(name, asker)))

    async def _cancel(self, name: QueuedId, asker: Asker) -> None:
        await self._item(name, asker)
        await asker.wire.answer(200, response_of(name, await self._journals.cancel(name, asker)))

    async def _item(self, name: QueuedId, asker: Asker) -> bpb.Item:
        """Raises `UnknownRequest` also for a request that is no response."""
        item = await self._journals.item(name, asker)
        if item.labels.get(PATH_LABEL) != BACKGROUND_PATH:
            raise UnknownRequest(name.response)
        return item

    # ------------------------------------------------------------------------------------------------ as a stream

    async def _followed(self, name: QueuedId, asker: Asker, after: int | None) -> AsyncGenerator[bytes, None]:
        """Its events with higher numbers than `after`; None: all of them."""
        item = await self._item(name, asker)
        last = -1 if after is None else after
        yield PING  # so that the answer begins, whatever there is to say
        begun = response_of(name, _as_queued(item))
        for index, kind in enumerate(("response.created", "response.queued")[last + 1 :], start=last + 1):
            yield _event({"type": kind, "sequence_number": index, "response": begun})
        seen = attempt_of(last) if last >= HEAD else None
        parts = self._journals.parts(name, None)
        try:
            async for part in parts:
                if seen not in (None, part.attempt):
                    yield _lost(last)
                    return
                for data in pieces(part, tensors=False):
                    event = event_of(name, data, part.attempt)
                    if event is not None and event["sequence_number"] > last:
                        yield _event(event)
                        last = event["sequence_number"]
                        seen = seen or attempt_of(last)
        except MeshError:
            item = await self._item(name, asker)
            if not has_ended(item):
                raise
            kind = _ENDS.get(item.state, "response.failed")
            ended = (item.attempt or 1) * EVENTS_OF_AN_ATTEMPT - 1  # after all that its last attempt may have told
            if ended > last:
                yield _event({"type": kind, "sequence_number": ended, "response": response_of(name, item)})
        finally:
            await parts.aclose()


def _as_queued(item: bpb.Item) -> bpb.Item:
    made = bpb.Item(state=bpb.QUEUED, deployment=item.deployment, labels=dict(item.labels))
    made.submitted.CopyFrom(item.submitted)
    return made


def _lost(last: int) -> bytes:
    """The replica that had begun is gone, and its answer with it: what another one answers may be another text."""
    message = "another attempt has begun, and what was told before counts no more: retrieve it without `starting_after`"
    return _event(
        {"type": "error", "code": "attempt_lost", "message": message, "param": None, "sequence_number": last + 1}
    )


def _event(data: dict[str, Any]) -> bytes:
    return sse.event(data, data["type"])
