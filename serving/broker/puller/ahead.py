"""How many items wait in a replica for those that run, and for how long. Pure: seconds are arguments."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

_LATEST: Final = 64
_ENOUGH: Final = 5  # of them, before anything is said
_WORTH: Final = 0.02  # of an item: a way that is shorter is not worth an item that waits
_PATIENCE: Final = 2.0  # times what an item usually takes
_LEAST_PATIENCE_S: Final = 0.02  # giving back costs its broker a commit, and another start a second one


class Ahead:
    """So many that the way from the broker costs no time: an item that is there begins when another one has ended.

    An item that is there can also be in the wrong place, behind one that takes long, while other replicas have room. So
    it waits no longer than `patience_s`, then goes back to its broker, and none is asked for until something has ended:
    then one, and one more with each further end, as the next one may take long, too.
    """

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_LATEST)
        self._usual_s = 0.0
        self._most = math.inf  # beside those that run; finite since one went back

    @property
    def patience_s(self) -> float:
        return max(_PATIENCE * self._usual_s, _LEAST_PATIENCE_S)

    @property
    def most(self) -> float:
        """No more are asked for: of those that were there one has waited too long. So many items have ended since."""
        return self._most

    def places(self, running: int, way_s: float) -> int:
        """Beside so many that may run; `way_s` from asking for an item to its coming."""
        if not self._most or not self._usual_s or way_s <= _WORTH * self._usual_s:
            return 0
        return int(min(math.ceil(running * way_s / self._usual_s), running, self._most))

    def ended(self, took_s: float) -> None:
        """An item ended `took_s` seconds after it began."""
        self._most += 1
        if took_s > 0:
            self._took.append(took_s)
        if len(self._took) >= _ENOUGH:
            self._usual_s = median(self._took)

    def gave_back(self) -> None:
        """Nothing has ended in time."""
        self._most = 0
