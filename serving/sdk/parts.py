"""Pieces of a result while it is made: which have been passed on, and what of the result is missing then. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.sdk.item_results import raise_unless_succeeded, result_pieces
from serving.sdk.tensors import Array, decode_response


@dataclass(frozen=True, slots=True)
class Place:
    """Before part `number` of an attempt, with `bytes` of the result before it."""

    attempt: int
    number: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TicketPart:
    """A piece of a result. `number` begins at 0 again when another attempt begins: what came before counts no more.

    `offset` bytes of the result are before it.
    """

    number: int
    attempt: int
    data: bytes
    offset: int = 0

    @property
    def place(self) -> Place:
        """Where it begins."""
        return Place(self.attempt, self.number, self.offset)

    def outputs(self) -> dict[str, Array]:
        """Of a decoupled model: one answer's outputs by name."""
        return decode_response(service_pb2.ModelInferResponse.FromString(self.data))

    def events(self) -> list[dict[str, Any]]:
        """Of an OpenAI stream: its events' JSON objects, without the last `[DONE]`."""
        lines = [line[5:].strip() for line in self.data.splitlines() if line.startswith(b"data:")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]


class Seen:
    """Which parts of which attempt have been passed on."""

    def __init__(self, after: Place | None = None) -> None:
        self.attempt = after.attempt if after is not None else 0
        self.next = after.number if after is not None else 0
        self.bytes = after.bytes if after is not None else 0
        self.wants_again = False  # another attempt has begun, and its beginning was not among what came

    def is_next(self, part: bpb.Part) -> bool:
        """Whether the part is the one to pass on. After a gap none is: the rest comes with the result."""
        self.wants_again = False
        if part.attempt != self.attempt:
            self.wants_again = part.number != 0 and self.next != 0
            self._begin(part.attempt)
        if part.number != self.next:
            return False
        self.next += 1
        self.bytes += len(part.body)
        return True

    def rest(self, item: bpb.Item) -> list[TicketPart]:
        """What is missing of the result. Raises what the item's end means."""
        raise_unless_succeeded(item)
        if item.attempt != self.attempt:
            self._begin(item.attempt)
        parts = []
        place, begun = 0, self.bytes
        for piece in result_pieces(item.result):
            missing = piece[max(0, begun - place) :]
            place += len(piece)
            if missing:
                parts.append(TicketPart(self.next, self.attempt, missing, self.bytes))
                self.next += 1
                self.bytes += len(missing)
        return parts

    def _begin(self, attempt: int) -> None:
        self.attempt, self.next, self.bytes = attempt, 0, 0
