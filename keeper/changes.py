"""What a plan wants written: one transaction, with what must not have changed since the plan was made. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keeper.picture import Versioned
from serving._proto import records_pb2 as pb
from serving._proto.batch_pb2 import BatchApplication

Record = pb.StoredSpec | pb.Decision | pb.Placement | pb.ApplicationStatus | BatchApplication


@dataclass(slots=True)
class Change:
    """One transaction. `expects`: key → modification revision, 0 for a key that must be absent."""

    expects: dict[str, int] = field(default_factory=dict)
    puts: dict[str, Record] = field(default_factory=dict)
    deletes: list[str] = field(default_factory=list)
    delete_prefixes: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def expect(self, key: str, found: Versioned[Any] | None) -> None:
        self.expects[key] = found.mod_revision if found else 0

    def put(self, key: str, found: Versioned[Any] | None, value: Record) -> None:
        """Writes `value` if the key is still as `found`."""
        self.expect(key, found)
        self.puts[key] = value

    def delete(self, key: str, found: Versioned[Any]) -> None:
        """Deletes the key if it is still as `found`."""
        self.expect(key, found)
        self.deletes.append(key)

    def note(self, kind: str, message: str, *, warning: bool = False) -> None:
        self.notes.append(Note(kind, message, warning))

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.delete_prefixes)


@dataclass(frozen=True, slots=True)
class Note:
    """Worth an entry in the log and the event list once the change was made. `kind` is a word for machines."""

    kind: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step for one application: at most one transaction, then perhaps another look after `again_after_s`.

    `blocked` is a reason for not going on at all, for people.
    """

    change: Change = field(default_factory=Change)
    again_after_s: float | None = None
    blocked: str = ""
