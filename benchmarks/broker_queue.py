"""A broker's queue with a million items of ten thousand tenants: time of each operation, memory of an item."""

from __future__ import annotations

import gc
import math
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.results import keep_results
from serving.broker.queue import HIGH, LOW, QueueSettings, Waiting, WaitingQueue

Tell = Callable[[str], None]
_ITEMS: Final = 1_000_000
_QUICK_ITEMS: Final = 50_000
_TENANTS: Final = 10_000
_START: Final = 1.7e9
_GAP_S: Final = 0.001  # between two submissions, so that most have risen before they are taken


@dataclass(frozen=True, slots=True)
class Row:
    deadlines: bool
    add_us: float  # means, those of an item's own making included
    take_us: float  # with its release
    remove_us: float
    longest_ms: float  # of all operations, with the garbage collector at rest
    bytes_per_item: float


def run(quick: bool, tell: Tell) -> str:
    rows = []
    for deadlines in (False, True):
        tell("with deadlines" if deadlines else "without deadlines")
        rows.append(measured(_QUICK_ITEMS if quick else _ITEMS, deadlines))
    if not quick:
        keep_results("broker_queue", [asdict(row) for row in rows])
    head = ["deadlines", "add", "take and release", "remove", "longest of all", "memory of an item"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        times = [f"{value:.1f} µs" for value in (row.add_us, row.take_us, row.remove_us)]
        lines.append(
            ["yes" if row.deadlines else "no", *times, f"{row.longest_ms:.0f} ms", f"{row.bytes_per_item:.0f} B"]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def measured(count: int, deadlines: bool) -> Row:
    tracemalloc.start()
    queue = _filled(count, deadlines)
    memory = tracemalloc.get_traced_memory()[0] / len(queue)
    tracemalloc.stop()
    del queue
    gc.collect()
    gc.disable()
    try:
        return _timed(count, deadlines, memory)
    finally:
        gc.enable()


def _filled(count: int, deadlines: bool) -> WaitingQueue:
    queue = WaitingQueue(QueueSettings())
    for item in _items(count, deadlines):
        queue.add(item, item.submitted)
    return queue


def _timed(count: int, deadlines: bool, memory: float) -> Row:
    longest = _Longest()
    queue = WaitingQueue(QueueSettings())
    numbers = []
    begun = time.perf_counter()
    for item in _items(count, deadlines):
        with longest:
            queue.add(item, item.submitted)
        numbers.append(item.number)
    added = time.perf_counter()
    now = _START + count * _GAP_S
    for _ in range(count // 2):
        now += _GAP_S
        with longest:
            item_or_none = queue.take(now, 64)
            queue.release(item_or_none.number if item_or_none else 0)
    taken = time.perf_counter()
    random.Random(2).shuffle(numbers)
    removing = time.perf_counter()
    for number in numbers[: count // 2]:
        with longest:
            queue.remove(number)
    removed = time.perf_counter()
    half = count // 2 / 1e6
    return Row(
        deadlines,
        (added - begun) / count * 1e6,
        (taken - added) / half,
        (removed - removing) / half,
        longest.seconds * 1e3,
        memory,
    )


def _items(count: int, deadlines: bool) -> Iterator[Waiting]:
    chance = random.Random(1)
    names = [f"tenant {index}" for index in range(_TENANTS)]
    for number in range(1, count + 1):
        now = _START + number * _GAP_S
        deadline = now + chance.random() * 1e6 if deadlines else math.inf
        took_s = chance.lognormvariate(0.0, 0.5) * (100.0 if chance.random() < 0.01 else 1.0)
        size = 1000 + int(chance.random() * 1e6)
        yield Waiting(number, chance.choice(names), chance.randint(LOW, HIGH), deadline, now, took_s, size)


class _Longest:
    """Of the blocks that ran in it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds = max(self.seconds, time.perf_counter() - self._begun)
