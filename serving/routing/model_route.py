"""Which models are asked for a request to a route, in which order. Pure.

The first one is chosen by weight; a key (a session, a user) always gets the same one while it can answer, and a change
of weights moves no more keys than it must. Then come the other targets with a weight, then the fallbacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serving.routing.rendezvous import RendezvousMember, rendezvous_order


@dataclass(frozen=True, slots=True)
class WeightedModel:
    """`model` is a full name; `weight` its share of the requests among those of all targets, 0 is none."""

    model: str
    weight: int


class ModelRoute:
    """One route. `fallbacks` are full names of models, in the order in which they are asked."""

    def __init__(self, name: str, targets: Iterable[WeightedModel], fallbacks: Iterable[str] = ()) -> None:
        self.name = name
        self.targets = tuple(targets)
        self.fallbacks = tuple(fallbacks)
        self._weighted = tuple(target for target in self.targets if target.weight > 0)
        self._members = [RendezvousMember(target.model, target.weight) for target in self._weighted]

    def order(self, key: str, chance: Callable[[], float]) -> tuple[str, ...]:
        """Every model that may be asked, each once. `key` empty: the targets come by `chance`, in [0, 1), and weight.

        With a key the order of targets is that of weighted rendezvous hashing. The route's name is part of the key, so
        that a user who gets the rare side of one route does not get that of all.
        """
        if len(self._weighted) == 1:
            first: Iterable[int] = (0,)
        elif key:
            first = rendezvous_order(f"{self.name}\0{key}", self._members)
        else:
            first = self._by_chance(chance)
        return tuple(dict.fromkeys((*(self._weighted[index].model for index in first), *self.fallbacks)))

    def models(self) -> tuple[str, ...]:
        """All that it names, targets without a weight too."""
        return tuple(dict.fromkeys((*(target.model for target in self.targets), *self.fallbacks)))

    def _by_chance(self, chance: Callable[[], float]) -> list[int]:
        """A draw without putting back: the least of exponential times, whose rates are the weights, comes first."""
        times = [-math.log(1.0 - chance()) / target.weight for target in self._weighted]
        return sorted(range(len(times)), key=times.__getitem__)
