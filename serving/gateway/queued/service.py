"""The paths below /v1/async: which there are, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.errors import NotFound
from serving.gateway.kserve_rest import target_of
from serving.gateway.queued import events
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.background import Background
from serving.gateway.queued.following import read_event_id
from serving.gateway.queued.ids import QueuedId, read_queued_id
from serving.gateway.queued.journals import Journals
from serving.gateway.queued.kserve_json import HEADER_LENGTH, read_infer_request
from serving.gateway.queued.objects import PREFIX, has_ended, queued_request
from serving.gateway.queued.operations import QUEUED
from serving.gateway.queued.options import read_options
from serving.gateway.queued.query import fields, flag, wait_s
from serving.gateway.queued.response_object import BACKGROUND_PATH
from serving.gateway.queued.results import answer_of
from serving.gateway.queued.submitting import CHECKS, Submitted, Submitter
from serving.openai.json_body import PARSED_APART, read_object_apart

RESPONSES: Final = BACKGROUND_PATH
_KSERVE: Final = f"{PREFIX}/v2"
_ACCEPTED: Final = 202
_AGAIN_S: Final = "1"
_NO_TOKENS: Final = 0  # of tensors
PATHS: Final = frozenset(one.path for one in QUEUED)  # as metrics name them
Handler = Callable[[QueuedId, Asker], Awaitable[None]]


class QueuedRequests:
    """Belongs to one event loop. `takes` says whether a path is one of these, `answer` answers it."""

    def __init__(
        self, submitter: Submitter, journals: Journals, background: Background, *, max_body_bytes: int
    ) -> None:
        self._submitter = submitter
        self._journals = journals
        self.background = background
        self._max_body_bytes = max_body_bytes
        self._actions: Mapping[tuple[str, str], Handler] = {
            ("", "GET"): self._look,
            ("", "DELETE"): self._cancel,
            ("result", "GET"): self._result,
            ("events", "GET"): self._events,
            ("cancel", "POST"): self._cancel,
        }

    @staticmethod
    def takes(path: str) -> bool:
        return path.startswith((f"{PREFIX}/", f"{RESPONSES}/"))

    async def answer(self, asker: Asker) -> None:
        """Raises errors, which become OpenAI's error objects."""
        path = asker.call.path
        if path.startswith(f"{RESPONSES}/"):
            await self.background.answer(path.removeprefix(f"{RESPONSES}/"), asker)
        elif (own := f"/v1{path.removeprefix(PREFIX)}") in CHECKS:
            asker.call.want(asker.wire, "POST")
            await self._submit_openai(own, asker)
        elif path.startswith(f"{_KSERVE}/"):
            await self._submit_kserve(path.removeprefix(PREFIX), asker)
        else:
            await self._act(path.removeprefix(f"{PREFIX}/"), asker)

    # ------------------------------------------------------------------------------------------------ submit

    async def _submit_openai(self, path: str, asker: Asker) -> None:
        wire = asker.wire
        options = read_options(wire.header)
        wire.time_left_s()  # a wrong one is refused before the body is read
        data = await wire.read_body(self._max_body_bytes)
        body = await read_object_apart(data, limit_bytes=self._max_body_bytes)

        async def submit() -> None:
            await _accepted(await self._submitter.openai(path, body, options, asker), asker)

        await wire.unless_gone(submit(), asker.cut)

    async def _submit_kserve(self, path: str, asker: Asker) -> None:
        target = target_of(path)
        asker.call.path = f"{_KSERVE}/models/{{model}}/infer"  # for metrics: the model's name is in it
        if target is None or target.action != "infer":
            raise NotFound(f"there is no {PREFIX}{path} here; requests with tensors go to {asker.call.path}")
        asker.call.want(asker.wire, "POST")
        wire = asker.wire
        options = read_options(wire.header)
        wire.time_left_s()
        data = await wire.read_body(self._max_body_bytes)

        async def submit() -> None:
            found = await self._submitter.target(target.name, {}, options, asker, openai=False)
            length = wire.header(HEADER_LENGTH.encode())
            given = (data, length, found.key.model, target.version, self._max_body_bytes)
            request = bpb.Request(infer=await _read_tensors(*given))
            own = target.path(found.key.model)
            await _accepted(await self._submitter.submit(found, request, own, options, asker, _NO_TOKENS), asker)

        await wire.unless_gone(submit(), asker.cut)

    # ------------------------------------------------------------------------------------------------ one item

    async def _act(self, rest: str, asker: Asker) -> None:
        text, _, action = rest.partition("/")
        name = read_queued_id(text)
        path = asker.call.path = f"{PREFIX}/{{id}}" + (f"/{action}" if action else "")
        methods = [method for known, method in self._actions if known == action]
        if not methods:
            raise NotFound(f"there is no {path[:100]} here")
        asker.call.want(asker.wire, *methods)
        await asker.wire.read_body(self._max_body_bytes)
        await asker.wire.unless_gone(self._actions[action, asker.call.method](name, asker), asker.cut)

    async def _look(self, name: QueuedId, asker: Asker) -> None:
        item = await self._journals.item(name, asker, wait_s=wait_s(fields(asker.scope, ("wait",))))
        await asker.wire.answer(200, queued_request(name, item))

    async def _cancel(self, name: QueuedId, asker: Asker) -> None:
        await asker.wire.answer(200, queued_request(name, await self._journals.cancel(name, asker)))

    async def _result(self, name: QueuedId, asker: Asker) -> None:
        query = fields(asker.scope, ("wait", "binary"))
        binary = flag(query, "binary")
        item = await self._journals.item(name, asker, wait_s=wait_s(query))
        if not has_ended(item):
            await asker.wire.answer(_ACCEPTED, queued_request(name, item), {"retry-after": _AGAIN_S})
            return
        answer = answer_of(item, binary=binary)
        await asker.wire.answer_bytes(answer.status, answer.body, answer.media_type, answer.headers)

    async def _events(self, name: QueuedId, asker: Asker) -> None:
        after = read_event_id(asker.wire.header(b"last-event-id"))
        await events.send(events.follow(self._journals, name, asker, after), asker.wire)


async def _accepted(submitted: Submitted, asker: Asker) -> None:
    told = queued_request(submitted.name, submitted.item)
    told["repeated"] = submitted.repeated
    await asker.wire.answer(_ACCEPTED, told, {"location": told["links"]["self"]})


async def _read_tensors(data: bytes, header_length: str, model: str, version: str, limit_bytes: int) -> bytes:
    def read() -> bytes:
        return bytes(read_infer_request(data, header_length, model, version, limit_bytes).SerializeToString())

    return await asyncio.to_thread(read) if len(data) > PARSED_APART else read()
