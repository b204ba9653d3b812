"""The queue and the backoff: pure, so checked against models."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.control import Backoff
from serving.control.queue import KeyedQueue
from serving.errors import InvalidArgument

KEYS = st.sampled_from("abcd")


class QueueMachine(RuleBasedStateMachine):
    """No key is lost, none runs twice at a time, none waits twice."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyedQueue[str] = KeyedQueue()
        self.now_s = 0.0
        self.wanted: set[str] = set()  # must run at some time
        self.timers: dict[str, float] = {}
        self.running: set[str] = set()

    @rule(key=KEYS)
    def wake(self, key: str) -> None:
        self.queue.wake(key)
        self.wanted.add(key)
        self.timers.pop(key, None)

    @rule(key=KEYS, after_s=st.floats(0.0, 10.0))
    def wake_later(self, key: str, after_s: float) -> None:
        self.queue.wake_at(key, self.now_s + after_s)
        if key not in self.wanted:
            self.timers[key] = self.now_s + after_s

    @rule(seconds=st.floats(0.0, 8.0))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def take(self) -> None:
        key = self.queue.take(self.now_s)
        for due in [item for item, at_s in self.timers.items() if at_s <= self.now_s]:
            self.wanted.add(due)
            del self.timers[due]
        if key is None:
            assert self.wanted <= self.running
            return
        assert key in self.wanted
        assert key not in self.running
        self.wanted.discard(key)
        self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.finished(key)
        self.running.discard(key)

    @invariant()
    def counts(self) -> None:
        assert self.queue.running == len(self.running)
        assert self.queue.next_timer_s() == min(self.timers.values(), default=None)
        assert self.queue.delayed == len(self.timers)
        assert self.queue.waiting == len(self.wanted)


QueueMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def test_first_come_first_served() -> None:
    queue: KeyedQueue[int] = KeyedQueue()
    for key in (3, 1, 2, 3, 1):
        queue.wake(key)
    assert [queue.take(0.0) for _ in range(4)] == [3, 1, 2, None]


def test_replaced_timers_do_not_pile_up() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    for number in range(10_000):
        queue.wake_at("a", float(number))
    assert len(queue._timers) < 200
    assert queue.next_timer_s() == 9999.0


@given(st.integers(1, 100), st.floats(0, 1))
def test_a_backoff_stays_within_its_limits(failures: int, random: float) -> None:
    backoff = Backoff(first_s=0.5, limit_s=20.0, factor=3.0, jitter=0.25)
    delay_s = backoff.delay_s(failures, lambda: random)
    assert 0.375 <= delay_s <= 25.0
    assert Backoff(first_s=0.5, limit_s=20.0, factor=3.0, jitter=0).delay_s(failures) == min(
        20.0, 0.5 * 3.0 ** (failures - 1)
    )


@pytest.mark.parametrize(
    "wrong", [{"first_s": 0.0}, {"first_s": 5.0, "limit_s": 1.0}, {"factor": 0.5}, {"jitter": 1.0}, {"jitter": -0.1}]
)
def test_a_senseless_backoff_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="a backoff needs"):
        Backoff(**wrong)
