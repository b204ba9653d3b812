"""What simulated replicas do, and the credits that they ask for: makes `broker/credits.json`, which Python and C++ run.

`python -m tests.contract.credit_cases` writes it again, after a change of the algorithm.
"""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving.broker.puller.credits import Credits

FILE: Final = Path(__file__).parent / "broker" / "credits.json"
SECOND_US: Final = 1_000_000


@dataclass
class Lanes:
    """Does so many items at a time, and has work always. `change` is the item from which it does others."""

    name: str
    lanes: int
    items: int
    time_us: int
    way_us: int = 0
    spread: float = 0.3
    most: int = 1024
    fixed: int = 0
    change: tuple[int, int] | None = None
    later_us: int = 0  # from `change` on; 0: as before
    events: list[int] = field(default_factory=list)

    def case(self) -> dict[str, Any]:
        """Events are [microseconds since the one before, microseconds that the item took; 0: it began], in a row."""
        given = Credits(least=1, most=self.most, fixed=self.fixed)
        chance = random.Random(self.name)
        now = before = done = 0
        coming: list[int] = []
        waiting: list[int] = []
        running: list[tuple[int, int]] = []
        wanted = [[0, given.wanted]]
        while done < self.items:
            while len(coming) + len(waiting) + len(running) < given.wanted:
                heapq.heappush(coming, now + self.way_us)
            now = min(coming[:1] + [end for end, _ in running[:1]])
            if coming and coming[0] <= now:
                given.started(heapq.heappop(coming) / SECOND_US)
                waiting.append(now)
                took = 0
            else:
                _, began = heapq.heappop(running)
                took = max(now - began, 1)
                given.ended(now / SECOND_US, took / SECOND_US)
                done += 1
            changed = self.change is not None and done >= self.change[0]
            lanes = self.change[1] if self.change and changed else self.lanes
            usual_us = self.later_us if self.later_us and changed else self.time_us
            while waiting and len(running) < lanes:
                time_us = round(usual_us * chance.lognormvariate(0, self.spread))
                heapq.heappush(running, (now + time_us, waiting.pop(0)))
            self.events += [now - before, took]
            before = now
            if given.wanted != wanted[-1][1]:
                wanted.append([len(self.events) // 2, given.wanted])
        return {
            "name": self.name,
            "most": self.most,
            "fixed": self.fixed,
            "events": self.events,
            "wanted": wanted,
        }


CASES: Final = (
    lambda: Lanes("one at a time", 1, 600, 2000),
    lambda: Lanes("eight at a time", 8, 1500, 5000, way_us=200),
    lambda: Lanes("a long way", 1, 400, 1000, way_us=2500),
    lambda: Lanes("not more than three", 8, 600, 1000, most=3),
    lambda: Lanes("always five", 8, 50, 1000, fixed=5),
    lambda: Lanes("tiny items", 1, 900, 300, way_us=9000),
    lambda: Lanes("tiny items, then long ones", 1, 500, 200, way_us=6000, change=(450, 1), later_us=60_000),
    lambda: Lanes("fewer lanes than before", 6, 1500, 1000, way_us=100, spread=1.0, change=(700, 2)),
)


def text() -> str:
    """The file, an event list to a line."""
    lines = ",\n".join("    " + json.dumps(make().case(), separators=(",", ":")) for make in CASES)
    about = (
        "`events` in a row: microseconds since the one before (the first: since 0), then the microseconds that the item"
        " which ends took, or 0 where one begins. `wanted`: from so many events on."
    )
    return f'{{\n  "about": {json.dumps(about)},\n  "cases": [\n{lines}\n  ]\n}}\n'


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), "utf-8")
