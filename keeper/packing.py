"""Do these replicas fit on these nodes? First-fit decreasing, and an exact search where that is not enough. Pure.

First fit alone has anomalies: more room can make it fail. The search behind it makes the answer exact, and so monotone,
for every size that occurs (its steps are bounded, so that no input can stop the keeper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keeper.resources import Amounts, Demand, Need

SEARCH_STEPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Node:
    """A node with the room that is left on it. Amounts that are not named are zero."""

    id: str
    room: Amounts
    accelerators: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)

    def suits(self, need: Need) -> bool:
        """It is the kind of node that `need` wants, whatever room it has."""
        if need.accelerator and need.accelerator not in self.accelerators:
            return False
        return all(self.labels.get(key) == value for key, value in need.labels)

    def count(self, need: Need) -> int | None:
        """How many replicas of `need` fit; None: any number."""
        return _count(self.room, need) if self.suits(need) else 0


def _count(room: Amounts, need: Need) -> int | None:
    counts = [max(0, room.get(name, 0)) // amount for name, amount in need.amounts if amount > 0]
    return min(counts) if counts else None


def pack(demands: Sequence[Demand], nodes: Sequence[Node]) -> list[Node] | None:
    """The nodes with the room that is left after all replicas found a place; None when they do not all fit."""
    ordered = _decreasing(demands, nodes)
    return _first_fit(ordered, nodes) or _Search(ordered, nodes).run()


def pack_what_fits(demands: Sequence[Demand], nodes: Sequence[Node]) -> list[Node]:
    """As `pack`, but what fits nowhere takes what is left of its resources on the roomiest node instead.

    For replicas that exist already although there is too little room for them: what they take is taken.
    """
    exact = pack(demands, nodes)
    if exact is not None:
        return exact
    state = _State(nodes)
    for demand in _decreasing(demands, nodes):
        for _ in range(demand.count):
            if not state.put_first(demand.need):
                state.squeeze(demand.need)
    return state.nodes()


def _decreasing(demands: Sequence[Demand], nodes: Sequence[Node]) -> list[Demand]:
    """Largest first: by the largest share that one replica takes of all the room of a resource."""
    rooms: dict[str, int] = {}
    for node in nodes:
        for name, amount in node.room.items():
            rooms[name] = rooms.get(name, 0) + max(0, amount)

    def size(demand: Demand) -> tuple[float, tuple[tuple[str, int], ...], str]:
        shares = [amount / rooms[name] if rooms.get(name) else 1.0 for name, amount in demand.need.amounts]
        return (-max(shares, default=0.0), demand.need.amounts, demand.name)

    return sorted((demand for demand in demands if demand.count > 0), key=size)


def _first_fit(demands: Sequence[Demand], nodes: Sequence[Node]) -> list[Node] | None:
    state = _State(nodes)
    for demand in demands:
        left = demand.count
        for index in range(len(state.rooms)):
            left -= state.put(index, demand.need, left)
            if not left:
                break
        if left:
            return None
    return state.nodes()


@dataclass(slots=True)
class _State:
    origin: Sequence[Node]
    rooms: list[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rooms = [dict(node.room) for node in self.origin]

    def most(self, index: int, need: Need, at_most: int) -> int:
        if not self.origin[index].suits(need):
            return 0
        count = _count(self.rooms[index], need)
        return at_most if count is None else min(count, at_most)

    def take(self, index: int, need: Need, count: int) -> None:
        room = self.rooms[index]
        for name, amount in need.amounts:
            room[name] = room.get(name, 0) - amount * count

    def put(self, index: int, need: Need, at_most: int) -> int:
        count = self.most(index, need, at_most)
        if count:
            self.take(index, need, count)
        return count

    def put_first(self, need: Need) -> bool:
        return any(self.put(index, need, 1) for index in range(len(self.rooms)))

    def squeeze(self, need: Need) -> None:
        for name, amount in need.amounts:
            roomiest = max(self.rooms, key=lambda room, name=name: room.get(name, 0), default=None)  # type: ignore[misc]
            if roomiest is not None:
                roomiest[name] = max(0, roomiest.get(name, 0) - amount)

    def nodes(self) -> list[Node]:
        return [replace(node, room=room) for node, room in zip(self.origin, self.rooms, strict=True)]


@dataclass(slots=True)
class _Choice:
    """`count` replicas of the demand at `position` are on the node at `index`; before it, `left` had no place yet."""

    position: int
    index: int
    left: int
    count: int


class _Search:
    """Depth first over (demand, node): how many of this demand on this node, the most first.

    The choices made so far are a list instead of calls inside calls: there is one for each node of each demand, which
    is thousands on an ordinary cluster that is full.
    """

    def __init__(self, demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
        self._demands = demands
        self._state = _State(nodes)
        self._steps = SEARCH_STEPS
        self._choices: list[_Choice] = []

    def run(self) -> list[Node] | None:
        if not all(self._enough(demand) for demand in self._demands):
            return None
        return self._state.nodes() if self._place_all() else None

    def _enough(self, demand: Demand) -> bool:
        """Whether this demand would fit if it were alone: cheap, and rules most hopeless cases out."""
        left = demand.count
        for index in range(len(self._state.rooms)):
            left -= self._state.most(index, demand.need, left)
            if left <= 0:
                return True
        return left <= 0

    def _place_all(self) -> bool:
        """False when there is no way, and when the steps are used up: what was not tried by then does not fit."""
        if not self._demands:
            return True
        position, index, left = 0, 0, self._demands[0].count
        while True:
            if left == 0:
                position += 1
                if position == len(self._demands):
                    return True
                index, left = 0, self._demands[position].count
            if self._steps <= 0:
                return False
            if index < len(self._state.rooms):
                most = self._state.most(index, self._demands[position].need, left)
                self._choices.append(_Choice(position, index, left, most))
            elif not self._step_back():
                return False
            choice = self._choices[-1]
            self._steps -= 1
            self._state.take(choice.index, self._demands[choice.position].need, choice.count)
            position, index, left = choice.position, choice.index + 1, choice.left - choice.count

    def _step_back(self) -> bool:
        """Undoes choices back to the last one that can be one smaller, and makes it so; False when there is none."""
        while self._choices:
            choice = self._choices[-1]
            self._state.take(choice.index, self._demands[choice.position].need, -choice.count)
            if choice.count > 0:
                choice.count -= 1
                return True
            self._choices.pop()
        return False
