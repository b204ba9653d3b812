"""How long an item will take: from what its client says, and from those before it. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from serving.broker.sketch import Quantiles

UNKNOWN_S: Final = 1.0  # what an item is said to take while nothing is known
_ENOUGH: Final = 5  # observations before a kind of items is believed
_MOST_KINDS: Final = 4096
_WINDOW: Final = 100  # of observations of one kind; older ones count half


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of an item before it runs."""

    labels: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    expected_s: float = 0.0  # as its client says; 0: it does not


class Predictor:
    """The median of items of the same kind, of one deployment.

    Kinds, the narrowest that was seen often enough counts: all labels and the size (to a factor of two), all labels,
    the one label whose items differ least, the size. What a client says is taken at its word until five of its kind
    have shown by which factor such words are wrong. Medians, so that a few that hang do no harm; they fade, so that
    what changed is learnt. At most `_MOST_KINDS` are remembered, the latest.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, Quantiles] = OrderedDict()
        self._all = Quantiles()

    def predict(self, features: Features) -> float:
        """Seconds, more than 0."""
        said = _is_time(features.expected_s)
        found = next(self._believed(features, said), None)
        if said:
            return features.expected_s * (found.median() if found else 1.0)
        if found:
            return found.median()
        return self._all.median() if self._all.count >= _ENOUGH else UNKNOWN_S

    def learn(self, features: Features, took_s: float) -> None:
        """An item ended with success after so many seconds of execution. No time at all, or none that is known, is not
        learnt from."""
        if not _is_time(took_s):
            return
        self._all.add(took_s)
        said = _is_time(features.expected_s)
        for kind in [*_narrow(features), *_labels(features), _size(features)]:
            self._observe((False, kind), took_s)
            if said:
                self._observe((True, kind), took_s / features.expected_s)
        while len(self._kinds) > _MOST_KINDS:
            self._kinds.popitem(last=False)

    def median(self) -> float:
        """Of all items, in seconds; 0 while there were none."""
        return self._all.median()

    def _observe(self, kind: Hashable, value: float) -> None:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = Quantiles(_WINDOW)
        else:
            self._kinds.move_to_end(kind)
        found.add(value)

    def _believed(self, features: Features, said: bool) -> Iterator[Quantiles]:
        """Of times, or of factors between times and what clients said of them."""
        for kind in _narrow(features):
            yield from self._known((said, kind))
        single = [found for kind in _labels(features) for found in self._known((said, kind))]
        if single:
            yield min(single, key=_spread)
        yield from self._known((said, _size(features)))

    def _known(self, kind: Hashable) -> Iterator[Quantiles]:
        found = self._kinds.get(kind)
        if found is not None and found.count >= _ENOUGH:
            yield found


def _is_time(seconds: float) -> bool:
    return 0.0 < seconds < math.inf


def _spread(times: Quantiles) -> float:
    return times.quantile(0.75) / times.quantile(0.25)


def _narrow(features: Features) -> Iterator[Hashable]:
    labels = frozenset(features.labels.items())
    yield labels, _size(features)
    if len(labels) > 1:
        yield labels


def _labels(features: Features) -> list[Hashable]:
    return list(features.labels.items())


def _size(features: Features) -> Hashable:
    return max(features.size_bytes, 0).bit_length()
