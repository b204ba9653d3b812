"""That the queue takes logarithmic time and little memory: comparisons and bytes are counted, nothing is timed.

`python -m benchmarks broker_queue` measures a million items.
"""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from serving.broker.queue import HIGH, LOW, QueueSettings, Waiting, WaitingQueue


def items(count: int, tenants: int, deadlines: bool) -> Iterator[Waiting]:
    chance = random.Random(1)
    names = [f"tenant {index}" for index in range(tenants)]
    for number in range(count):
        now = 1.7e9 + number * 0.01
        deadline = now + 1e4 + chance.random() * 1e5 if deadlines else math.inf
        took_s = chance.lognormvariate(0.0, 0.5) * (100.0 if chance.random() < 0.01 else 1.0)
        size = 1000 + chance.randrange(10**6)
        yield Waiting(number + 1000, chance.choice(names), chance.randint(LOW, HIGH), deadline, now, took_s, size)


@pytest.mark.parametrize("tenants", [1, 500])
@pytest.mark.parametrize("deadlines", [False, True])
def test_comparisons(tenants: int, deadlines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000
    compared = 0
    lower = Waiting.__lt__

    def counted(item: Waiting, other: Waiting) -> bool:
        nonlocal compared
        compared += 1
        return lower(item, other)

    monkeypatch.setattr(Waiting, "__lt__", counted)
    queue = WaitingQueue(QueueSettings())
    most = 0
    numbers = []
    for item in items(count, tenants, deadlines):
        before = compared
        queue.add(item, item.submitted)
        most = max(most, compared - before)
        numbers.append(item.number)
    now = 1.7e9 + count * 0.01
    for _ in range(count // 2):
        before = compared
        found = queue.take(now, 8)
        assert found is not None
        queue.release(found.number)
        most = max(most, compared - before)
    assert most <= 4 * math.log2(count), "in one operation"
    random.Random(2).shuffle(numbers)
    compared = 0
    removed = sum(queue.remove(number) is not None for number in numbers)
    assert removed == count // 2
    assert compared <= 4 * math.log2(count) * removed


def test_bytes() -> None:
    tracemalloc.start()
    try:
        queue = WaitingQueue(QueueSettings())
        for item in items(50_000, 500, deadlines=True):
            queue.add(item, item.submitted)
        assert tracemalloc.get_traced_memory()[0] / len(queue) < 360, "items with all their fields included"
    finally:
        tracemalloc.stop()
