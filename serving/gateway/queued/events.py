"""`GET /v1/async/{id}/events`: a queued request as server-sent events, from its beginning or from where one was.

Events: `status` (the request as it is), `part` (a piece of the result), `attempt` (another attempt has begun: what came
before counts no more), `end` (the request as it has ended), `error` (the gateway cannot go on).
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from serving._proto import broker_pb2 as bpb
from serving.errors import MeshError
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.following import EventId, events
from serving.gateway.queued.ids import QueuedId
from serving.gateway.queued.journals import Journals
from serving.gateway.queued.objects import INFER, PATH_LABEL, has_ended, queued_request
from serving.openai import sse
from serving.timeouts import cancel_and_wait
from serving.wire import Wire

_WAIT_S: Final = 20.0
_PING_S: Final = 15.0
PING: Final = b": waits\n\n"


async def follow(
    journals: Journals, name: QueuedId, asker: Asker, after: EventId | None
) -> AsyncGenerator[bytes, None]:
    """Each a whole event. Raises where nothing can be told of it; an item that has failed ends in an event."""
    item = await journals.item(name, asker)
    yield sse.event(_told(name, item), "status")
    tensors = await _has_tensors(journals, name, asker, item)
    attempt = after.place.attempt if after is not None else 0
    skip = after.skip if after is not None else 0
    parts = journals.parts(name, after.place if after is not None else None)
    try:
        async for part in parts:
            if after is not None and part.place != after.place:
                skip = 0  # the part that was begun is none of this attempt
            if attempt not in (0, part.attempt):
                yield sse.event({"attempt": part.attempt}, "attempt")
            attempt = part.attempt
            for event_id, data in events(part, skip, tensors=tensors):
                yield b"id: %s\nevent: part\ndata: %s\n\n" % (str(event_id).encode(), data)
            skip = 0
    except MeshError:
        if not has_ended(await journals.item(name, asker)):
            raise
    finally:
        await parts.aclose()
    yield sse.event(_told(name, await journals.item(name, asker)), "end")


async def _has_tensors(journals: Journals, name: QueuedId, asker: Asker, item: bpb.Item) -> bool:
    """Of a request that was not submitted over HTTP only its result tells."""
    path = item.labels.get(PATH_LABEL, "")
    if path:
        return path == INFER
    while not has_ended(item):
        item = await journals.item(name, asker, wait_s=_WAIT_S)
    return item.result.WhichOneof("body") in ("infer", "infers")


def _told(name: QueuedId, item: bpb.Item) -> dict[str, Any]:
    return dict(queued_request(name, item))


async def send(source: AsyncGenerator[bytes, None], wire: Wire) -> None:
    """All of it, with comments where nothing comes for long, so that what lies between does not hang up.

    The head of the answer waits for the first event: what fails before it gets a status of its own.
    """
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=_PING_S)
            if not coming.done():
                if wire.status:
                    await wire.send(PING)
                continue
            data = coming.result()
            if data is None:
                break
            if not wire.status:
                await wire.begin_events()
            await wire.send(data)
            coming = asyncio.ensure_future(anext(source, None))
        await wire.end()
    finally:
        await cancel_and_wait(coming)
        await source.aclose()
