"""Shares of limits: whatever gateways do in whatever order, all of them together use no more than the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.access.meter import Counter, Meter, Reservation
from serving.access.settling import Settlement, farewell, may_go, record_of, settle
from serving.access.share_view import Written, peers_of, share_of
from serving.access.shares import Own, Peer, Share, claim, fair_split, make_plan
from serving.access.windows import PERIODS, Period, window_of

KEY = "00112233aabbccdd"
BEGIN = 1_000_020.0
NAMES = ("a", "b", "c")


@given(st.integers(0, 1000), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 500), min_size=1))
def test_a_fair_split_is_whole_and_fair(limit: int, wants: dict[str, int]) -> None:
    split = fair_split(limit, wants)
    assert sum(split.values()) == limit
    assert split == fair_split(limit, dict(reversed(wants.items())))
    for name, wanted in wants.items():
        if split[name] < wanted:  # who does not get what it wants has no less than anybody, but for a rest of one
            assert split[name] >= max(split.values()) - 1


@pytest.mark.parametrize(
    ("wants", "split"),
    [
        ({"a": 5}, {"a": 60}),
        ({"a": 0, "b": 0}, {"a": 30, "b": 30}),
        ({"a": 100, "b": 100}, {"a": 30, "b": 30}),
        ({"a": 10, "b": 100}, {"a": 10, "b": 50}),
        ({"a": 10, "b": 20, "c": 100}, {"a": 10, "b": 20, "c": 30}),
        ({"a": 10, "b": 20}, {"a": 25, "b": 35}),
    ],
)
def test_splits(wants: dict[str, int], split: dict[str, int]) -> None:
    assert fair_split(60, wants) == split


def test_who_holds_more_than_its_split_gives_back_what_it_has_not_used() -> None:
    other = Peer("b", Share(window=7, granted=0, next=0, wanted=60))
    plan = make_plan(60, Period.MINUTE, 7, Own("a", used=10, need=0, wanted=60), [other])
    assert (plan.share.granted, plan.share.next, plan.free) == (30, 30, 30)
    plan = make_plan(60, Period.MINUTE, 7, Own("a", used=50, need=0, wanted=60), [other])
    assert (plan.share.granted, plan.share.next) == (50, 30)


def test_hopeless_only_when_nobody_can_give_back() -> None:
    own = Own("a", used=30, need=1, wanted=60)
    spent = Peer("b", Share(window=7, granted=30, next=30, wanted=60, used=30))
    assert make_plan(60, Period.MINUTE, 7, own, [spent]).hopeless
    idle = Peer("b", Share(window=7, granted=30, next=30, wanted=0, used=0))
    assert not make_plan(60, Period.MINUTE, 7, own, [idle]).hopeless
    assert make_plan(30, Period.MINUTE, 7, own, []).hopeless


def test_few_requests_are_not_split() -> None:
    """Else a gateway that nobody asks would keep the only place from one that is asked."""
    other = Peer("b", Share(window=7, granted=1, next=1, wanted=1))
    plan = make_plan(3, Period.MINUTE, 7, Own("a", used=1, need=1, wanted=2), [other])
    assert (plan.share.granted, plan.share.next) == (2, 0)


def test_a_budget_is_held_ahead_only_while_much_is_left() -> None:
    plan = make_plan(10_000, Period.DAY, 3, Own("a", used=100, need=50, wanted=0, ahead=200), [])
    assert plan.share.granted == 350
    short = Peer("b", Share(window=3, granted=9_600, wanted=9_900, used=9_600))
    plan = make_plan(10_000, Period.DAY, 3, Own("a", used=100, need=0, wanted=0, ahead=200), [short])
    assert plan.share.granted == 175  # a quarter of what is left
    spent = Peer("b", Share(window=3, granted=9_900, wanted=9_950, used=9_900))
    plan = make_plan(10_000, Period.DAY, 3, Own("a", used=100, need=0, wanted=0, ahead=200), [spent])
    assert plan.share.granted == 100


def test_what_the_share_of_a_gateway_that_is_gone_counts_for() -> None:
    share = Share(window=7, granted=30, next=20)
    assert [claim(Peer("b", share, lives=False), window, Period.MINUTE) for window in (7, 8)] == [30, 20]
    assert [claim(Peer("b", share), window, Period.MINUTE) for window in (6, 7, 8)] == [30, 30, 20]
    assert claim(Peer("b", Share(granted=5), lives=False), 0, Period.HELD) == 0
    assert claim(Peer("b", Share(granted=5), lives=False), 0, Period.TOTAL) == 5


# ---------------------------------------------------------------------------------------- many gateways, in any order


@dataclass
class Gateway:
    """As the ledger works, but for waiting: reads, plans, uses less at once, writes if nobody has written since."""

    name: str
    limits: pb.KeyLimits
    now: float
    meter: Meter = field(init=False)
    running: list[Reservation] = field(default_factory=list)
    read: tuple[int, dict[str, Written], Settlement] | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(KEY, self.limits, self.now)


class World:
    """A store with revisions, and gateways on it. `used` is what was really admitted, by limit and window."""

    def __init__(self, limits: pb.KeyLimits) -> None:
        self.limits = limits
        self.now = BEGIN
        self.revision = 1
        self.stored: dict[str, Written] = {}
        self.gateways: dict[str, Gateway] = {}
        self.used: dict[tuple[str, int], int] = {}
        self.born = 0
        self.ended: dict[str, float] = {}

    def start(self) -> None:
        self.born += 1
        name = f"g{self.born:03d}"
        self.gateways[name] = Gateway(name, self.limits, self.now)

    def pick(self, number: int) -> Gateway:
        names = sorted(self.gateways)
        return self.gateways[names[number % len(names)]]

    def request(self, gateway: Gateway, tokens: int) -> None:
        meter = gateway.meter
        meter.roll(self.now)
        meter.asked(tokens)
        if meter.refusing(tokens) is not None:
            meter.waits(tokens, sign=1)
            self.begin_write(gateway)
            self.end_write(gateway)
            meter.waits(tokens, sign=-1)
            if meter.refusing(tokens) is not None:
                return
        gateway.running.append(meter.reserve(tokens))
        for name, counter in meter.counters.items():
            amount = tokens if counter.counts_tokens else 1
            key = (name, counter.window.number)
            self.used[key] = self.used.get(key, 0) + amount

    def finish(self, gateway: Gateway) -> None:
        if gateway.running:
            reservation = gateway.running.pop(0)
            gateway.meter.settle(reservation, reservation.tokens, self.now)
            self.used[("concurrent_requests", 0)] = self.used.get(("concurrent_requests", 0), 0) - 1

    def begin_write(self, gateway: Gateway) -> None:
        gateway.meter.roll(self.now)
        living = frozenset(self.gateways)
        gone = [
            name
            for name, one in self.stored.items()
            if name not in living
            and (one.record.left or self.now - self.ended[name] >= 60)
            and may_go(one.record, self.now)
            and min(living) == gateway.name
        ]
        settlement = settle(gateway.meter, gateway.name, self.stored, living, gone)
        for name, plan in settlement.plans.items():
            gateway.meter.counters[name].yield_to(plan.share)
        gateway.read = (self.revision, dict(self.stored), settlement)

    def end_write(self, gateway: Gateway) -> None:
        if gateway.read is None:
            return
        revision, found, settlement = gateway.read
        gateway.read = None
        if revision != self.revision:
            return
        mine = found.get(gateway.name)
        record = record_of(gateway.meter, gateway.name, settlement, mine.record if mine else None)
        self.revision += 1
        for name in settlement.removed:
            del self.stored[name]
        self.stored[gateway.name] = Written(record, self.revision)
        for name, plan in settlement.plans.items():
            gateway.meter.counters[name].used += settlement.folded[name]
            gateway.meter.counters[name].wrote(plan.share, plan.free)

    def kill(self, gateway: Gateway) -> None:
        del self.gateways[gateway.name]
        self.ended[gateway.name] = self.now
        held = ("concurrent_requests", 0)
        self.used[held] = self.used.get(held, 0) - len(gateway.running)
        self.revision += 1  # its lease is over: who has read before must read again

    def leave(self, gateway: Gateway) -> None:
        while gateway.running:
            self.finish(gateway)
        gateway.meter.roll(self.now)
        mine = self.stored.pop(gateway.name, None)
        last = farewell(gateway.meter, gateway.name, mine.record if mine else None)
        if last is not None:
            self.stored[gateway.name] = Written(last, self.revision + 1)
        self.kill(gateway)

    def check(self) -> None:
        living = frozenset(self.gateways)
        for name, period in PERIODS.items():
            limit = getattr(self.limits, name)
            if not limit:
                continue
            now = window_of(period, self.now, KEY).number
            for window in (now, now + 1, now + 5):
                claims = sum(claim(peer, window, period) for peer in peers_of(self.stored, name, living))
                assert claims <= limit, (name, window, claims)
        for (name, window), used in self.used.items():
            limit = getattr(self.limits, name)
            assert used <= limit, (name, window, used)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["request"] * 8 + ["finish"] * 3 + ["read", "write", "later", "start", "kill", "leave"]),
        st.integers(0, 7),
        st.integers(1, 40),
    ),
    min_size=20,
    max_size=150,
)
LIMITS = st.builds(
    pb.KeyLimits,
    requests_per_minute=st.sampled_from([0, 1, 3, 20, 60]),
    tokens_per_minute=st.sampled_from([0, 100, 300]),
    concurrent_requests=st.sampled_from([0, 1, 4, 30]),
    tokens_per_day=st.sampled_from([0, 400]),
    tokens_total=st.sampled_from([0, 700]),
)


@settings(max_examples=200, deadline=None)
@given(LIMITS, ACTIONS)
def test_no_order_of_events_uses_more_than_a_limit(limits: pb.KeyLimits, actions: list[tuple[str, int, int]]) -> None:
    world = World(limits)
    world.start()
    for action, number, tokens in actions:
        gateway = world.pick(number)
        if action == "request":
            world.request(gateway, tokens)
        elif action == "finish":
            world.finish(gateway)
        elif action == "read":
            world.begin_write(gateway)
        elif action == "write":
            world.end_write(gateway)
        elif action == "later":
            world.now += tokens * 3.0
        elif action == "start" and len(world.gateways) < 4:
            world.start()
        elif action in ("kill", "leave") and len(world.gateways) > 1:
            (world.kill if action == "kill" else world.leave)(gateway)
        world.check()


@pytest.mark.parametrize("gateways", [1, 2, 3])
def test_all_of_a_limit_can_be_used(gateways: int) -> None:
    """Nothing is lost between gateways: requests that come anywhere find what is left anywhere."""
    world = World(pb.KeyLimits(requests_per_minute=30))
    for _ in range(gateways):
        world.start()
    for number in range(200):
        gateway = world.pick(number)
        world.request(gateway, 1)
        for other in world.gateways.values():  # as they do when they see what it wants
            world.begin_write(other)
            world.end_write(other)
    assert list(world.used.values()) == [30]
    world.now = window_of(Period.MINUTE, world.now, KEY).ends_at
    for _ in range(100):  # later all of them come to one
        world.now += 0.5
        world.request(world.pick(0), 1)
        for other in world.gateways.values():
            world.begin_write(other)
            world.end_write(other)
    first, second = world.used.values()  # who was asked a minute ago is thought to be asked again, less and less
    assert first == 30
    assert 24 <= second <= 30


def test_a_budget_outlives_every_gateway() -> None:
    world = World(pb.KeyLimits(tokens_per_day=1000))
    for round_number in range(5):
        world.start()
        gateway = world.pick(0)
        for _ in range(4):
            world.request(gateway, 40)
        (world.kill if round_number % 2 else world.leave)(gateway)
        world.now += 61
    (day,) = [key for key in world.used if key[0] == "tokens_per_day"]
    assert world.used[day] == 800
    world.start()
    for _ in range(20):
        world.request(world.pick(0), 40)
    assert 800 < world.used[day] <= 1000
    assert set(world.stored) == {world.pick(0).name}  # those that are gone are folded into it


def test_folding_counts_what_was_held() -> None:
    world = World(pb.KeyLimits(tokens_per_day=1000, requests_per_minute=100))
    world.start()
    world.request(world.pick(0), 100)
    held = share_of(world.stored["g001"].record, "tokens_per_day").granted
    assert held >= 100
    world.start()
    world.kill(world.gateways["g001"])
    world.now += 61
    world.request(world.pick(0), 10)
    assert list(world.stored) == ["g002"]
    assert world.pick(0).meter.counters["tokens_per_day"].used == held + 10
    assert list(world.stored["g002"].record.folded) == ["g001"]


# ---------------------------------------------------------------------------------------- meters by themselves


def meter_with(granted: int = 10_000, **limits: int) -> Meter:
    meter = Meter(KEY, pb.KeyLimits(**limits), BEGIN)
    for counter in meter.counters.values():
        counter.granted = min(granted, counter.limit)
    return meter


def counter(meter: Meter, name: str) -> Counter:
    return meter.counters[name]


def test_tokens_settle() -> None:
    meter = meter_with(tokens_per_minute=1000, tokens_per_day=5000, requests_per_minute=5, concurrent_requests=2)
    cheap, dear = meter.reserve(100), meter.reserve(100)
    assert {name: one.used for name, one in meter.counters.items()} == {
        "tokens_per_day": 200,
        "requests_per_minute": 2,
        "tokens_per_minute": 200,
        "concurrent_requests": 2,
    }
    assert meter.refusing(1) is counter(meter, "concurrent_requests")
    meter.settle(cheap, 10, BEGIN + 1)
    meter.settle(dear, 150, BEGIN + 2)
    assert counter(meter, "tokens_per_minute").used == 160
    assert counter(meter, "tokens_per_day").used == 160
    assert counter(meter, "requests_per_minute").used == 2
    assert counter(meter, "concurrent_requests").used == 0


def test_a_request_that_ends_in_a_later_minute() -> None:
    """What it gives back is of a minute that is over; what it costs beyond its reservation is a debt of this one."""
    meter = meter_with(tokens_per_minute=1000, tokens_per_day=5000)
    cheap, dear = meter.reserve(100), meter.reserve(100)
    meter.settle(cheap, 10, BEGIN + 61)
    meter.settle(dear, 130, BEGIN + 62)
    assert counter(meter, "tokens_per_minute").used == 30
    assert counter(meter, "tokens_per_day").used == 140


def test_a_clock_that_steps_back_begins_no_new_minute() -> None:
    meter = meter_with(requests_per_minute=5)
    meter.roll(BEGIN + 60)
    counter(meter, "requests_per_minute").granted = 5
    meter.reserve(1)
    meter.roll(BEGIN + 59)
    assert counter(meter, "requests_per_minute").used == 1
    meter.roll(BEGIN - 7200)  # but one that was far wrong must not stop everything for hours
    assert counter(meter, "requests_per_minute").used == 0


def test_without_etcd_a_gateway_uses_its_share_or_a_fair_one() -> None:
    meter = meter_with(0, requests_per_minute=60, tokens_total=1000)
    requests, total = counter(meter, "requests_per_minute"), counter(meter, "tokens_total")
    assert requests.room(away=False, gateways=3) == 0
    assert requests.room(away=True, gateways=3) == 20
    requests.granted = 50
    assert requests.room(away=True, gateways=3) == 50
    total.free = 30
    assert total.room(away=True, gateways=3) == 30
    meter.set_limits(pb.KeyLimits(requests_per_minute=1), BEGIN)
    counter(meter, "requests_per_minute").granted = 0
    assert meter.refusing(1, away=True, gateways=3) is None


def test_windows() -> None:
    minute = window_of(Period.MINUTE, BEGIN, KEY)
    assert BEGIN < minute.ends_at <= BEGIN + 60
    assert window_of(Period.MINUTE, minute.ends_at, KEY).number == minute.number + 1
    ends = {window_of(Period.MINUTE, BEGIN, f"{number:016x}").ends_at for number in range(200)}
    assert len(ends) > 30  # not all keys at once
    assert window_of(Period.DAY, 86_400 * 5 + 1, KEY) == window_of(Period.DAY, 86_400 * 6 - 1, KEY)
    december = window_of(Period.MONTH, 1_797_000_000.0, KEY)  # 2026-12-11
    assert december.ends_at == 1_798_761_600.0  # 2027-01-01
    assert window_of(Period.MONTH, december.ends_at, KEY).number == december.number + 1
    assert window_of(Period.TOTAL, BEGIN, KEY).ends_at == math.inf
