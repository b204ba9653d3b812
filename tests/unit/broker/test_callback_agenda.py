"""Which callback is sent next, beside a naive model."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.broker.callbacks.agenda import Agenda

PLACES = 4
PER_RECEIVER = 2
PER_TENANT = 3


@dataclass(eq=False)
class One:
    tenant: str
    receiver: str
    at: float
    gone: bool = False


class AgendaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[One] = Agenda(PLACES, PER_RECEIVER, PER_TENANT)
        self.waiting: list[One] = []
        self.sending: list[One] = []
        self.now = 0.0

    def has_room(self, one: One) -> bool:
        of_receiver = sum(other.receiver == one.receiver for other in self.sending)
        of_tenant = sum(other.tenant == one.tenant for other in self.sending)
        return len(self.sending) < PLACES and of_receiver < PER_RECEIVER and of_tenant < PER_TENANT

    @rule(
        tenant=st.sampled_from("tuv"),
        receiver=st.sampled_from("abcd"),
        after=st.sampled_from([-1.0, 0.0, 2.0, 9.0]),
    )
    def add(self, tenant: str, receiver: str, after: float) -> None:
        one = One(tenant, receiver, self.now + after)
        self.waiting.append(one)
        self.agenda.add(one)

    @rule()
    def take(self) -> None:
        able = [one for one in self.waiting if one.at <= self.now and self.has_room(one)]
        one = self.agenda.take(self.now)
        if one is None:
            assert not able
            return
        assert one in able
        assert one.at == min(other.at for other in able)
        one.at = float("inf")
        self.waiting.remove(one)
        self.sending.append(one)

    @rule(pick=st.integers(0, 99), again=st.booleans())
    def end(self, pick: int, again: bool) -> None:
        if not self.sending:
            return
        one = self.sending.pop(pick % len(self.sending))
        self.agenda.release(one)
        if again:
            one.at = self.now + 3.0
            self.waiting.append(one)
            self.agenda.add(one)

    @rule(pick=st.integers(0, 99))
    def leaves(self, pick: int) -> None:
        if self.waiting:
            self.waiting.pop(pick % len(self.waiting)).gone = True

    @rule(receivers=st.sets(st.sampled_from("abcd")))
    def drop(self, receivers: set[str]) -> None:
        for one in self.waiting:
            one.gone = one.receiver in receivers
        self.waiting = [one for one in self.waiting if not one.gone]
        self.agenda.drop_gone()
        assert not any(one.gone for line in self.agenda._lines.values() for _, _, one in line.waiting)

    @rule(pick=st.integers(0, 99))
    def hasten(self, pick: int) -> None:
        if self.waiting:
            one = self.waiting[pick % len(self.waiting)]
            one.at = self.now
            self.agenda.add(one)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_wakes_in_time(self) -> None:
        at = self.agenda.next_at()
        room = [one.at for one in self.waiting if self.has_room(one)]
        assert not room or (at is not None and at <= min(room))
        assert self.agenda.active == len(self.sending)


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_nothing_is_kept_of_receivers_that_have_had_all() -> None:
    agenda: Agenda[One] = Agenda(PLACES, PER_RECEIVER, PER_TENANT)
    for number in range(100):
        agenda.add(One(str(number % 7), str(number), 0.0))
    while (one := agenda.take(1.0)) is not None:
        agenda.release(one)
    assert not agenda._receivers
    assert not agenda._tenants
    assert not agenda._lines
    assert agenda.next_at() is None


def test_nothing_is_kept_of_what_is_dropped() -> None:
    agenda: Agenda[One] = Agenda(PLACES, PER_RECEIVER, PER_TENANT)
    those = [One(str(number % 7), str(number), 1e9) for number in range(100)]
    for one in those:
        agenda.add(one)
        one.gone = True
    agenda.drop_gone()
    assert not agenda._lines
    assert agenda.next_at() is None


def test_a_line_that_waits_for_one_that_is_dropped_goes_on() -> None:
    agenda: Agenda[One] = Agenda(PLACES, 1, PER_TENANT)
    sending, dropped, waits = (One(tenant, "a", 0.0) for tenant in "tuv")
    for one in (sending, dropped, waits):
        agenda.add(one)
    assert agenda.take(1.0) is sending
    assert agenda.take(1.0) is None
    agenda.release(sending)
    dropped.gone = True
    agenda.drop_gone()
    assert agenda.take(1.0) is waits


def test_a_tenant_with_many_receivers_leaves_places_to_others() -> None:
    agenda: Agenda[One] = Agenda(PLACES, PER_RECEIVER, PER_TENANT)
    for number in range(1000):
        agenda.add(One("t", str(number), 0.0))
    agenda.add(One("u", "z", 0.5))
    taken = [agenda.take(1.0) for _ in range(5)]
    assert [one.tenant if one else None for one in taken] == ["t", "t", "t", "u", None]
    assert taken[0] is not None
    agenda.release(taken[0])
    again = agenda.take(1.0)
    assert again is not None
    assert (again.tenant, again.receiver) == ("t", "3")
