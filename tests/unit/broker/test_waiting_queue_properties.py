"""What holds of the queue whatever is done with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from queue_model import QueueModel

from serving.broker.queue import HIGH, LOW, QueueSettings, Waiting, WaitingQueue

TENANTS = st.sampled_from(["", "a", "b", "c"])
PRIORITIES = st.integers(LOW, HIGH)
SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.9, 4.1, 10.0, 100.0, 1000.0])
LEFT = st.one_of(st.just(math.inf), st.floats(-1.0, 400.0))
RULES = st.builds(
    QueueSettings,
    ageing_s=st.sampled_from([1.0, 60.0, math.inf]),
    patience_s=st.sampled_from([5.0, 600.0]),
    short_share=st.sampled_from([0.0, 0.25, 0.5]),
    long_share=st.sampled_from([0.0, 0.25, 0.5]),
    tenant_weights=st.dictionaries(TENANTS, st.sampled_from([0.5, 1.0, 3.0]), max_size=2),
)


class Against(RuleBasedStateMachine):
    """Every operation, beside the plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.7e9
        self.numbers = 0
        self.out: Counter[int] = Counter()
        self.running: dict[int, Waiting] = {}
        self.configure(QueueSettings())

    def configure(self, rules: QueueSettings) -> None:
        self.queue = WaitingQueue(rules)
        self.model = QueueModel(rules)

    @precondition(lambda self: not self.numbers)
    @rule(rules=RULES)
    def other_rules(self, rules: QueueSettings) -> None:
        self.configure(rules)

    @rule(tenant=TENANTS, priority=PRIORITIES, left=LEFT, expected_s=SECONDS, before=st.floats(0.0, 150.0))
    def add(self, tenant: str, priority: int, left: float, expected_s: float, before: float) -> None:
        self.numbers += 1
        item = Waiting(self.numbers, tenant, priority, self.now + left, self.now - before, expected_s, self.numbers)
        self.put(item)

    def put(self, item: Waiting) -> None:
        self.queue.add(item, self.now)
        self.model.waiting[item.number] = (item, item.number in self.queue._long_numbers)

    @rule(places=st.integers(0, 6))
    def take(self, places: int) -> None:
        allowed = self.model.may_go(self.now, places)
        item = self.queue.take(self.now, places)
        if item is None:
            assert not allowed, "something waits, and there is a place"
            return
        assert item.number in allowed
        self.model.running[item.number] = self.model.waiting.pop(item.number)[1]
        self.running[item.number] = item
        self.out[item.number] += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data(), back=st.booleans())
    def release(self, data: st.DataObject, back: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        item = self.running.pop(number)
        del self.model.running[number]
        self.queue.release(number)
        if back:
            self.out[number] -= 1
            self.put(item)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.numbers))
        found = self.queue.remove(number)
        item, _ = self.model.waiting.pop(number, (None, False))
        assert found is item
        self.out[number] += found is not None

    @rule()
    def expire(self) -> None:
        found = self.queue.expire(self.now)
        expected = [item for item, _ in self.model.waiting.values() if item.deadline <= self.now]
        assert found == sorted(expected)
        for item in found:
            del self.model.waiting[item.number]
            self.out[item.number] += 1

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 30.0, 61.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def books_are_right(self) -> None:
        waiting = [item for item, _ in self.model.waiting.values()]
        assert len(self.queue) == len(waiting)
        assert self.queue.waiting_bytes == sum(item.size_bytes for item in waiting)
        assert self.queue.running == len(self.running)
        assert self.queue.oldest(self.now) == max((self.now - item.submitted for item in waiting), default=0.0)
        assert self.queue.tenants() == Counter(item.tenant for item in waiting)
        assert self.queue.next_deadline() == min((item.deadline for item in waiting), default=math.inf)

    @invariant()
    def nothing_came_out_twice(self) -> None:
        assert all(times == 1 for times in self.out.values() if times), self.out

    def teardown(self) -> None:
        while (item := self.queue.take(self.now, 10**9)) is not None:
            self.out[item.number] += 1
        for item in self.queue.expire(self.now):
            self.out[item.number] += 1
        assert set(range(1, self.numbers + 1)) == {number for number, times in self.out.items() if times == 1}


Against.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstTheModel = Against.TestCase


def item(number: int, tenant: str = "", **more: Any) -> Waiting:
    fields = {"priority": 2, "deadline": math.inf, "submitted": 0.0, "expected_s": 1.0, "size_bytes": 1}
    return Waiting(number, tenant, **(fields | more))


@given(
    costs=st.lists(st.lists(st.floats(0.01, 3.9), min_size=40, max_size=40), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.2, 5.0), min_size=4, max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_tenants_that_wait_differ_by_no_more_than_their_longest_items(
    costs: list[list[float]], weights: list[float]
) -> None:
    names = [f"tenant {index}" for index in range(len(costs))]
    rules = QueueSettings(tenant_weights=dict(zip(names, weights, strict=False)), long_factor=1e9)
    queue = WaitingQueue(rules)
    for index, name in enumerate(names):
        for number, cost in enumerate(costs[index]):
            queue.add(item(index * 100 + number, name, expected_s=cost), 0.0)
    paid = dict.fromkeys(names, 0.0)
    longest = {name: max(costs[index]) / weights[index] for index, name in enumerate(names)}
    while len(queue.tenants()) == len(names):
        for one in names:
            for other in names:
                assert abs(paid[one] - paid[other]) <= longest[one] + longest[other] + 1e-9
        found = queue.take(0.0, 10**9)
        assert found is not None
        paid[found.tenant] += found.expected_s / rules.tenant_weights[found.tenant]


# What might keep an item waiting for ever: for each step, what is added beside it.
STREAMS: dict[str, Callable[[int, float], Waiting]] = {
    "of a higher class": lambda number, now: item(number, "other", priority=HIGH, submitted=now),
    "of the same tenant in a higher class": lambda number, now: item(number, "mine", priority=HIGH, submitted=now),
    "of deadlines": lambda number, now: item(number, "mine", submitted=now, deadline=now + 5.0),
    "of deadlines in a higher class": lambda number, now: item(
        number, "mine", priority=HIGH, submitted=now, deadline=now + 5.0
    ),
    "of ever new tenants": lambda number, now: item(number, f"tenant {number}", priority=HIGH, submitted=now),
    "of short ones": lambda number, now: item(number, "other", priority=HIGH, submitted=now, expected_s=0.1),
    "of long ones": lambda number, now: item(number, "other", priority=HIGH, submitted=now, expected_s=900.0),
}


@given(
    streams=st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=3),
    priority=PRIORITIES,
    expected_s=st.sampled_from([0.0, 1.0, 100.0]),
    places=st.integers(1, 8),
    many=st.integers(1, 3),
)
@example(  # long ones of one tenant: new ones with deadlines, whose turn it always was, and an old one
    streams=["of deadlines in a higher class", "of short ones", "of short ones"], priority=1, expected_s=100.0,
    places=1, many=1,
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_arrives_an_item_waits_for_a_bounded_time(
    streams: list[str], priority: int, expected_s: float, places: int, many: int
) -> None:
    queue = WaitingQueue(QueueSettings(ageing_s=10.0, patience_s=50.0))
    for number in range(-20, 0):
        queue.add(item(number), 0.0)
        queue.take(0.0, 10**9)
        queue.release(number)
    queue.add(item(0, "mine", priority=priority, expected_s=expected_s), 0.0)
    running: list[int] = []
    number = 0
    for step in range(2000):
        now = step * 0.5
        for name in streams * many:
            number += 1
            # Not more than are served: in turns that ever more tenants take, anybody's next one is ever farther away.
            if name == "of ever new tenants" and number % (2 * many * len(streams)):
                continue
            queue.add(STREAMS[name](number, now), now)
        if len(running) == places:
            queue.release(running.pop(0))
        found = queue.take(now, places)
        assert found is not None
        if found.number == 0:
            return
        running.append(found.number)
        queue.expire(now)
    raise AssertionError("it was passed for ever")


@given(adds=st.lists(st.tuples(TENANTS, LEFT), min_size=1, max_size=30), times=st.integers(10, 40))
@settings(max_examples=50, deadline=None)
def test_what_is_gone_takes_no_room(adds: list[tuple[str, float]], times: int) -> None:
    queue = WaitingQueue(QueueSettings())
    items = [item(number, tenant, deadline=1e9 + left) for number, (tenant, left) in enumerate(adds)]
    queue.add(item(-1, deadline=2e9), 0.0)
    queue.add(item(-2), 0.0)
    for _ in range(times):
        for each in items:
            queue.add(each, 0.0)
        for each in items:
            assert queue.remove(each.number) is each
    lane = queue._short
    flows = list(lane._flows.values())
    assert sum(len(flow._due) + len(flow._plain) for flow in flows) <= 2 * 2 + 16 * len(flows)
    for alarms in (lane._rises, lane._deadlines):
        assert len(alarms._heap) <= 2 * len(alarms._at) + 2 * 16
    assert len(queue._submitted._there) <= 2 * 2 + 2
    assert sum(len(ring._order) for ring in lane._rings.values()) <= 2 * 4
