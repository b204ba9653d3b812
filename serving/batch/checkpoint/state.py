"""What the entries of a job's log come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.batch.checkpoint.log import Entry, JsonObject
from serving.batch.checkpoint.parts import Counts, Part
from serving.errors import DataLoss


@dataclass
class Batch:
    """A piece of the source that is published as one: all of a bounded one, what has arrived of an unbounded one."""

    number: int  # from 1
    plan: JsonObject  # what the source reads for it
    parts: list[Part] = field(default_factory=list)
    finished: bool = False

    @property
    def counts(self) -> Counts:
        total = Counts()
        for part in self.parts:
            total += part.counts
        return total


@dataclass
class State:
    """`position` is the source's: what it gave before the batch. `published` counts rows of earlier batches."""

    position: JsonObject = field(default_factory=dict)
    batches: int = 0  # published
    published: Counts = field(default_factory=Counts)
    outputs: list[str] = field(default_factory=list)  # of the newest batch that was published
    batch: Batch | None = None
    ended: bool = False

    def apply(self, value: JsonObject) -> None:
        """One entry. DataLoss: it does not fit what came before."""
        kind = value.get("kind")
        if value.get("summary"):
            self._sum_up(value)
        elif kind == "batch":
            self.batch = Batch(value["number"], value["plan"])
        elif kind == "commit":
            self._batch(value).parts.extend(Part.from_json(part) for part in value["parts"])
        elif kind == "lost":
            batch = self._batch(value)
            gone = set(value["parts"])
            batch.parts = [part for part in batch.parts if part.name not in gone]
        elif kind == "finished":
            self._batch(value).finished = True
        elif kind != "start":
            raise DataLoss(f"a job's log has an entry of kind {kind!r}: it is of a newer version, or damaged")

    def _sum_up(self, value: JsonObject) -> None:
        self.position = value["position"]
        self.batches = value["batches"]
        self.published = Counts(**value["published"])
        self.outputs = value["outputs"]
        self.ended = value["ended"]
        self.batch = None

    def _batch(self, value: JsonObject) -> Batch:
        if self.batch is None or self.batch.number != value["batch"]:
            raise DataLoss(
                f"a job's log speaks of batch {value['batch']} where none has begun: an entry before is damaged"
            )
        return self.batch

    def summary(self) -> dict[str, Any]:
        """An entry that says all of it, where no batch is under way."""
        return {
            "kind": "summary",
            "summary": True,
            "position": self.position,
            "batches": self.batches,
            "published": asdict(self.published),
            "outputs": self.outputs,
            "ended": self.ended,
        }


def folded(entries: Iterable[Entry]) -> State:
    state = State()
    for entry in entries:
        if entry.value is not None:
            state.apply(entry.value)
    return state
