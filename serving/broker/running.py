"""An item that is no longer in a queue and has not ended: it runs, or is being changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from serving.broker.items import NEVER, Item, State
from serving.broker.partial_results import PartialResult


@dataclass(slots=True, eq=False)
class Running:
    """`busy`: a change of it is on its way to the disk; what comes meanwhile is in `deferred`."""

    item: Item  # as it is on disk, or will be when nothing is on its way any more
    lease_until: float = NEVER  # monotonic
    busy: bool = False
    long: bool = False  # as its queue had it
    replica: str = ""  # that is to have it
    process: str = ""
    then: Callable[[Running, bytes | None], None] | None = None  # hears its request when it may run, None when not
    progress: float = 0.0
    partial: PartialResult = field(default_factory=lambda: PartialResult(0))
    deferred: list[Callable[[], None]] = field(default_factory=list)

    def started(self, now: float) -> Item:
        """The item when its next attempt has begun."""
        before = self.item
        return replace(
            before, state=State.RUNNING, attempt=before.attempt + 1, attempts=before.attempts + 1,
            replica=self.replica, process=self.process, started=now,
        )  # fmt: skip

    def tell(self, request: bytes | None) -> None:
        then, self.then = self.then, None
        if then is not None:
            then(self, request)

    def free(self) -> None:
        """The change is on disk, or could not be written."""
        self.busy = False
        while self.deferred and not self.busy:
            self.deferred.pop(0)()


Loaded: TypeAlias = tuple[Running, bytes]
Told: TypeAlias = Callable[[bool], None]  # whether the outcome was wanted; not called when it could not be written


class Listener(Protocol):
    """Who hands work to replicas."""

    def waiting(self) -> None:
        """Something can be started that could not before."""

    def begin(self, journal: str, items: Sequence[Item]) -> Mapping[int, Running]:
        """Those of these, which are to be written for the first time, that replicas have room for: claimed, by number.
        `Running.tell` is to be called when their start is written, or was not."""

    def stop(self, replica: str, item: str, attempt: int, reason: str) -> None:
        """Work at a replica has become useless."""

    def silent(self, replica: str, item: str, attempt: int) -> None:
        """The lease of its work has ended because it said nothing: what it is given may have the same fate."""
