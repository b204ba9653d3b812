"""A row on its way through a sender."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.batch.rows.request import RowAnswer, RowFault, RowRequest
from serving.batch.rows.waiting import Row
from serving.batch.sending.places import LaneKey
from serving.batch.sending.row_stream import Done
from serving.batch.sending.settings import SenderConfig
from serving.batch.sending.verdict import Reply


@dataclass(slots=True, eq=False)
class Pending:
    """A row that has no answer yet. `followers` are the same; nobody wants it when there is none."""

    request: RowRequest
    lane: LaneKey
    followers: list[Done]
    row: Row[Pending, str] = field(init=False)
    attempts: int = 0
    begun: bool = False
    silent_s: float = 0.0  # for which endpoints that had it said nothing

    def __post_init__(self) -> None:
        self.row = Row(self, self.request.expected, self.request.prefix)

    def hangs(self, reply: Reply, took_s: float, config: SenderConfig) -> bool:
        """Others may be answered, and this row makes endpoints silent for longer than anybody may be."""
        if reply.silent:
            self.silent_s += took_s
        return reply.silent and self.silent_s > config.patience_s + config.timeout_s


def answer_of(reply: Reply, attempts: int) -> RowAnswer:
    fault = reply.fault
    if fault is not None and not fault.attempts:
        fault = RowFault(fault.code, fault.message, attempts)
    return RowAnswer(reply.status, reply.value, reply.raw, reply.request_id, attempts, fault, reply.work)
