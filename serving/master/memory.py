"""What a master must know over its own death: its work order, and whether it was told to stop. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss
from serving.master.order import supersedes
from serving.store.records import decode, encode


@dataclass(frozen=True, slots=True)
class Memory:
    order: pb.Placement
    stopping: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps({"order": encode(self.order).decode(), "stopping": self.stopping}).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Memory:
        """Raises `DataLoss` on anything but the answer of `to_bytes`."""
        try:
            state = json.loads(data)
            return Memory(decode(pb.Placement, str(state["order"]).encode()), bool(state["stopping"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"not a master's memory: {error!r}") from error


def newest(created_with: pb.Placement, kept: Memory | None) -> Memory:
    """What counts after a restart: the arguments of the creation are as old as the actor."""
    if kept is None:
        return Memory(created_with)
    order = kept.order if supersedes(kept.order, created_with) else created_with
    same = kept.order.stored.uid == created_with.stored.uid and kept.order.generation == created_with.generation
    return Memory(order, kept.stopping and same)
