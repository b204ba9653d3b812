"""What follows of a result, cut into the events of which it consists, each with the place after it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serving.gateway.queued import kserve_json
from serving.openai.errors import InvalidRequest
from serving.openai.sse import to_json
from serving.sdk.parts import Place, TicketPart

_ID: Final = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})")
_STREAM: Final = (b"data:", b"event:", b":")
_EVENT_END: Final = b"\n\n"
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class EventId:
    """After `skip` events of what begins at `place`: what a client says in `Last-Event-ID`."""

    place: Place
    skip: int = 0

    def __str__(self) -> str:
        return f"{self.place.attempt}.{self.place.number}.{self.place.bytes}.{self.skip}"


def read_event_id(text: str) -> EventId | None:
    """None where nothing was said. Raises `InvalidRequest`."""
    if not text:
        return None
    found = _ID.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"Last-Event-ID: {text[:40]!r} is no id of an event of this stream", error_code="invalid_value"
        )
    attempt, number, offset, skip = map(int, found.groups())
    return EventId(Place(attempt, number, offset), skip)


def pieces(part: TicketPart, *, tensors: bool) -> list[bytes]:
    """The JSON of each event of a part: of a stream its own events' data, of an answer in one the whole of it."""
    if tensors:
        return [to_json(kserve_json.answer_object(part.data))]
    if not part.data.lstrip().startswith(_STREAM):
        return [b"".join(part.data.splitlines())]
    return [data for data in map(data_of, part.data.split(_EVENT_END)) if data]


def data_of(event: bytes) -> bytes:
    """The data of one event of a stream; b"" for comments, and for the `[DONE]` at an end."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines)
    return b"" if data == _DONE else data


def events(part: TicketPart, skip: int, *, tensors: bool) -> Iterator[tuple[EventId, bytes]]:
    """Id and JSON of each event of a part, after the first `skip`."""
    found = pieces(part, tensors=tensors)
    after = Place(part.attempt, part.number + 1, part.offset + len(part.data))
    for index, data in enumerate(found[skip:], start=skip + 1):
        yield (EventId(after) if index == len(found) else EventId(part.place, index)), data
