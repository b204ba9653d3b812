"""Ejection: when, for how long, how many at once, and the way back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.routing import OutlierConfig, OutlierDetector

CONFIG = OutlierConfig(consecutive_failures=3, rate_requests=10, base_s=1.0, max_s=8.0, forgive_s=30.0)


def detector(keys: str, config: OutlierConfig = CONFIG) -> OutlierDetector[str]:
    made: OutlierDetector[str] = OutlierDetector(config)
    made.retain(keys)
    return made


def test_failures_in_a_row_eject_and_a_success_starts_anew() -> None:
    found = detector("abcd")
    assert [found.failed("a", 0.0), found.failed("a", 0.1)] == [False, False]
    found.succeeded("a", 0.2)
    assert [found.failed("a", 0.3), found.failed("a", 0.4), found.failed("a", 0.5)] == [False, False, True]
    assert not found.is_active("a")
    assert found.is_active("b")


def test_a_bad_rate_ejects() -> None:
    found = detector("abcd")
    ejected = []
    for step in range(20):
        ejected.append(found.failed("a", step / 10) if step % 2 else found.succeeded("a", step / 10))
    assert True in ejected


def test_failures_long_ago_do_not_count() -> None:
    found = detector("abcd", OutlierConfig(consecutive_failures=100, rate_requests=10, window_s=10))
    for step in range(9):
        found.failed("a", step / 10)
    assert not found.failed("a", 30.0)
    assert found.is_active("a")


def test_a_lost_connection_ejects_at_once() -> None:
    found = detector("ab")
    assert found.lost("a", 0.0)
    assert not found.is_active("a")


def test_the_last_one_is_never_ejected() -> None:
    found = detector("a")
    assert not found.lost("a", 0.0)
    assert all(not found.failed("a", 0.0) for _ in range(100))
    assert found.is_active("a")


def test_way_back_needs_time_and_one_probe() -> None:
    found = detector("ab")
    found.lost("a", 0.0)
    assert found.next_probe_at() == 1.0
    assert found.take_due_probes(0.9) == []
    assert found.take_due_probes(1.0) == ["a"]
    assert found.take_due_probes(5.0) == [], "one probe at a time"
    assert not found.is_active("a"), "not before the probe has answered"
    found.probed("a", True, 1.2)
    assert found.is_active("a")
    assert found.ejected == 0


def test_ejections_in_a_row_last_longer_up_to_the_limit() -> None:
    found, now, pauses = detector("ab"), 0.0, []
    found.lost("a", now)
    for _ in range(6):
        until = found.next_probe_at()
        assert until is not None
        pauses.append(until - now)
        now = until
        assert found.take_due_probes(now) == ["a"]
        found.probed("a", False, now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_coming_back_does_not_forgive_but_time_does() -> None:
    found = detector("ab")
    for start, lasts in ((0.0, 1.0), (2.0, 2.0), (100.0, 1.0)):
        assert found.lost("a", start)
        assert found.next_probe_at() == start + lasts
        found.take_due_probes(start + lasts)
        found.probed("a", True, start + lasts)


def test_those_that_went_away_are_forgotten() -> None:
    found = detector("ab")
    found.lost("a", 0.0)
    found.retain("b")
    assert found.ejected == 0
    found.retain("ab")
    assert found.is_active("a")
    assert not found.failed("nobody", 0.0)
    found.probed("nobody", True, 0.0)


@given(st.integers(2, 30), st.floats(0.0, 1.0))
def test_share_is_bounded(count: int, share: float) -> None:
    found: OutlierDetector[int] = OutlierDetector(OutlierConfig(max_share=share))
    found.retain(range(count))
    for key in range(count):
        found.lost(key, 0.0)
    assert found.ejected == max(1, int(count * share))
    assert found.ejected == sum(not found.is_active(key) for key in range(count))


class Machine(RuleBasedStateMachine):
    """Anything may happen in any order; the count and the bound hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.keys: set[int] = set(range(6))
        self.found: OutlierDetector[int] = OutlierDetector(CONFIG)
        self.found.retain(self.keys)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.integers(0, 7), ok=st.booleans())
    def answered(self, key: int, ok: bool) -> None:
        if ok:
            self.found.succeeded(key, self.now)
        else:
            self.found.failed(key, self.now)

    @rule(key=st.integers(0, 7))
    def lose(self, key: int) -> None:
        before = self.found.is_active(key)
        ejected = self.found.lost(key, self.now)
        assert not (ejected and not before), "one that is out cannot be ejected again"

    @rule(ok=st.booleans())
    def probe(self, ok: bool) -> None:
        for key in self.found.take_due_probes(self.now):
            assert not self.found.is_active(key)
            self.found.probed(key, ok, self.now)
            assert self.found.is_active(key) is ok

    @rule(keys=st.sets(st.integers(0, 7), min_size=1))
    def replace(self, keys: set[int]) -> None:
        self.keys = keys
        self.found.retain(keys)

    @invariant()
    def counts_agree(self) -> None:
        assert self.found.ejected == sum(not self.found.is_active(key) for key in self.keys)

    @invariant()
    def one_is_left_unless_others_went_away(self) -> None:
        assert self.found.ejected <= 6


TestMachine = Machine.TestCase
