"""Which side of a traffic split a request belongs to, and which endpoints are on it. Pure.

The C++ twin is `cpp_ext/routing/traffic.h`; `tests/contract/routing/traffic.json` holds the cases that both must pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import accumulate
from typing import Final, TypeAlias

from serving._proto import records_pb2 as pb
from serving.routing.rendezvous import RendezvousMember, rendezvous_best

Lookup: TypeAlias = Callable[[str], str]  # the first value of a metadata name; "" where it is not there
Sides: TypeAlias = tuple[tuple[str, str], ...]  # of each split that is about a request: its name and the chosen side's

NO_SIDES: Final[Sides] = ()


class Place(IntEnum):
    """Where an endpoint is with respect to the sides of a request; the worse the higher."""

    ON_SIDE = 0
    SPARE = 1  # on another side: asked while no endpoint of the request's own works
    NEVER = 2


class Split:
    """One `TrafficSplit`, ready to choose."""

    __slots__ = ("_bounds", "_by_revision", "_members", "_others", "_sides", "record")

    def __init__(self, record: pb.TrafficSplit) -> None:
        self.record = record
        self._sides = {side.name: side for side in record.sides}
        self._members = [RendezvousMember(side.name, side.weight) for side in record.sides]
        self._bounds = list(accumulate(side.weight for side in record.sides))
        self._by_revision = {revision: side.name for side in record.sides for revision in side.revisions}
        self._others = next((side.name for side in record.sides if not side.revisions), "")

    def is_about(self, deployment: str, model: str) -> bool:
        """`deployment` is the one that the request names itself ("": none): a split of deployments has no say then."""
        if self.record.deployment:
            return deployment in ("", self.record.deployment)
        return not deployment and self.record.model in ("", model)

    def choose(self, lookup: Lookup, sequence: str, draw: Callable[[], float]) -> str:
        """The side's name; "" where every weight is 0."""
        for match in self.record.matches:
            if match.side in self._sides and lookup(match.header) == match.value:
                return match.side
        if not self._bounds or not self._bounds[-1]:
            return ""
        key = (lookup(self.record.key) if self.record.key else "") or sequence
        if key:  # each split draws anew: who is first in one is not in all
            best = rendezvous_best(
                f"{self.record.name}\0{key}", self._members, lambda index: self._members[index].weight > 0
            )
            return self._members[best].id if best is not None else ""
        return self._members[bisect_right(self._bounds, int(draw() * self._bounds[-1]))].id

    def place(self, chosen: str, deployment: str, revision: int) -> Place:
        """Where an endpoint of `deployment` and `revision` is for a request of side `chosen`."""
        if self.record.deployment:
            if deployment != self.record.deployment:
                return Place.ON_SIDE  # nothing to do with it
            name = self._by_revision.get(revision, self._others)
        else:
            name = next((side.name for side in self.record.sides if side.deployment == deployment), "")
        if name == chosen:
            return Place.ON_SIDE
        return Place.SPARE if name and self._sides[name].weight > 0 else Place.NEVER


class Traffic:
    """All splits of an application."""

    __slots__ = ("_splits",)

    def __init__(self, splits: Iterable[pb.TrafficSplit] = ()) -> None:
        self._splits = {split.name: Split(split) for split in splits}

    def __bool__(self) -> bool:
        return bool(self._splits)

    def sides(
        self, deployment: str, model: str, lookup: Lookup, draw: Callable[[], float], *, sequence: str = ""
    ) -> Sides:
        """The sides of a request that names `deployment` ("": none) and `model`. `sequence` is its sequence's name."""
        chosen: list[tuple[str, str]] = []
        for name, split in self._splits.items():
            if split.is_about(deployment, model):
                side = split.choose(lookup, sequence, draw)
                if side:
                    chosen.append((name, side))
        return tuple(chosen)

    def place(self, sides: Sides, endpoint: pb.Endpoint) -> Place:
        """The worst place of an endpoint in all splits. Splits that are not there any more do not count."""
        return max(
            (
                split.place(side, endpoint.deployment, endpoint.revision)
                for name, side in sides
                if (split := self._splits.get(name)) is not None
            ),
            default=Place.ON_SIDE,
        )

    def shadow(self, deployment: str, model: str, draw: Callable[[], float]) -> str:
        """The deployment that gets a copy of this request; "" for none."""
        for split in self._splits.values():
            wanted = split.record.shadow
            if wanted.deployment and split.is_about(deployment, model) and draw() * 100.0 < wanted.percent:
                return wanted.deployment
        return ""
