"""A row on its way through a sender."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.batch.rows.request import RowAnswer, RowFault, RowRequest
from serving.batch.rows.waiting import Row
from serving.batch.sending.places import LaneKey
from serving.batch.sending.row_stream import Done
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

    def __post_init__(self) -> None:
        self.row = Row(self, self.request.expected, self.request.prefix)


def answer_of(reply: Reply, attempts: int) -> RowAnswer:
    fault = reply.fault
    if fault is not None and not fault.attempts:
        fault = RowFault(fault.code, fault.message, attempts)
    return RowAnswer(reply.status, reply.value, reply.raw, reply.request_id, attempts, fault, reply.work)
