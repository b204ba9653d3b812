"""Places and waiting tokens: counted up once, down once, however a request ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArgument, ResourceExhausted
from serving.llm.limits import Admission, Full, Limits
from serving.llm.waiting import Pace
from serving.openai.errors import retry_after_s
from serving.openai.service_tier import ServiceTier, service_tier


def test_places_are_given_back_after_success_and_failure() -> None:
    admission = Admission(Limits(max_requests=2, max_waiting_tokens=100))
    with admission.enter(1) as place:
        place.wait_for(60)
        assert (admission.requests, admission.waiting_tokens) == (1, 60)
        place.begun()
        place.begun()
        assert (admission.requests, admission.waiting_tokens) == (1, 0)
    with pytest.raises(ZeroDivisionError), admission.enter(2) as place:
        place.wait_for(60 // (admission.requests - 2))
    assert (admission.requests, admission.waiting_tokens) == (0, 0)


def test_of_several_prompts_each_waits_until_it_begins() -> None:
    admission = Admission(Limits(max_waiting_tokens=100))
    with admission.enter(3) as place:
        place.wait_for(90)
        place.begun(30)
        assert admission.waiting_tokens == 60
        place.begun(1000)
        assert admission.waiting_tokens == 0


def test_one_too_many_is_refused_with_the_numbers() -> None:
    admission = Admission(Limits(max_requests=2))
    words = r"1 generations.*2 more.*2 .max_requests"
    with admission.enter(1), pytest.raises(ResourceExhausted, match=words), admission.enter(2):
        pytest.fail("it was let in")
    assert admission.requests == 0


def test_too_many_waiting_tokens_are_refused_with_the_numbers() -> None:
    admission = Admission(Limits(max_waiting_tokens=100))
    with admission.enter(1) as first, admission.enter(1) as second:
        first.wait_for(60)
        with pytest.raises(ResourceExhausted, match=r"60 tokens.*41 more.*100 .max_waiting_tokens"):
            second.wait_for(41)
        second.wait_for(40)
        assert admission.waiting_tokens == 100
    assert admission.waiting_tokens == 0


def test_what_is_above_the_limits_alone_is_let_in_where_nothing_else_is() -> None:
    admission = Admission(Limits(max_requests=2, max_waiting_tokens=10))
    with admission.enter(5) as place:
        place.wait_for(1000)
        with pytest.raises(ResourceExhausted), admission.enter(1):
            pytest.fail("it was let in")


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50), st.booleans()), max_size=20))
def test_nothing_is_left_over(requests: list[tuple[int, int, bool]]) -> None:
    admission = Admission(Limits(max_requests=8, max_waiting_tokens=60))
    open_places = []
    for choices, tokens, ends in requests:
        entered = admission.enter(choices)
        try:
            place = entered.__enter__()
        except ResourceExhausted:
            continue
        open_places.append(entered)
        try:
            place.wait_for(tokens)
        except ResourceExhausted as error:
            open_places.pop()
            entered.__exit__(type(error), error, error.__traceback__)
        if ends and open_places:
            open_places.pop(0).__exit__(None, None, None)
    for entered in open_places:
        entered.__exit__(None, None, None)
    assert (admission.requests, admission.waiting_tokens) == (0, 0)


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def busy(limits: Limits) -> Iterator[Admission]:
    """One whose prompts of 100 tokens began one after the other, one each second, and where 1,000 tokens wait."""
    clock = _Clock()
    admission = Admission(limits, clock)
    for _ in range(20):
        with admission.enter(1) as place:
            place.wait_for(100)
            clock.now += 1
            place.begun()
    with admission.enter(1) as place:
        place.wait_for(1000)
        yield admission


def test_who_would_wait_too_long_is_told_when_to_come_back() -> None:
    words = r"in about 10 s.*above 8 s .max_wait_s"
    with busy(Limits(max_wait_s=8)) as full, pytest.raises(Full, match=words) as caught, full.enter(1):
        pytest.fail("it was let in")
    assert retry_after_s(caught.value) == 2
    with busy(Limits(max_wait_s=12)) as admission, admission.enter(1) as place:
        place.wait_for(1)


@pytest.mark.parametrize(("tier", "waits"), [("priority", 1249), ("default", 999), ("flex", 499)])
def test_what_can_wait_is_refused_first(tier: str, waits: int) -> None:
    admission = Admission(Limits(max_waiting_tokens=1000))
    asked = service_tier(tier)
    with admission.enter(1) as first, admission.enter(1, asked) as second:
        first.wait_for(1)
        second.wait_for(waits)
        with pytest.raises(Full, match=tier):
            second.wait_for(1)


def test_the_urgent_do_not_wait_for_others() -> None:
    with busy(Limits(max_wait_s=8)) as admission:  # whose tokens that wait are of the default tier
        with admission.enter(1, ServiceTier.PRIORITY) as place:
            place.wait_for(900)
            assert place.priority(None) < 0
            assert place.priority(5) == 5
        with pytest.raises(Full), admission.enter(1, ServiceTier.FLEX):
            pytest.fail("it was let in")


def test_a_pace_follows_what_happens_now() -> None:
    pace = Pace(0.0)
    assert pace.wait_s(100, 0.0) is None
    now = 0.0
    for _ in range(100):
        pace.waits(50, now)
        now += 0.5
        pace.begins(50, now)
    fast = pace.wait_s(1000, now)
    assert fast == pytest.approx(10, rel=0.05)
    pace.waits(50, now)
    slow = pace.wait_s(1000, now + 30)  # nothing begins any more
    assert slow is not None
    assert slow > 20
    stands = pace.wait_s(1000, now + 3600)  # after an hour of that
    assert stands is not None
    assert stands > slow


def test_a_pace_of_which_nothing_was_seen_lately_is_not_known() -> None:
    pace = Pace(0.0)
    pace.waits(1000, 0.0)
    pace.begins(1000, 5.0)
    assert pace.wait_s(1000, 5.0) is not None
    assert pace.wait_s(1000, 3600.0) is None
    pace.waits(1000, 3600.0)
    assert pace.wait_s(1000, 3605.0) is None  # the first one after a rest may be a slow one
    assert pace.wait_s(1000, 3620.0) is not None
    pace.leaves(1000, 3621.0)
    pace.waits(1000, 3622.0)
    assert pace.wait_s(1000, 3625.0) is None


def test_what_nobody_waits_for_any_more_says_nothing_of_the_pace() -> None:
    pace = Pace(0.0)
    pace.waits(1000, 0.0)
    pace.leaves(1000, 5.0)
    assert pace.wait_s(100, 5.0) is None


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100), st.booleans()), max_size=30))
def test_a_pace_is_never_negative(happens: list[tuple[int, float, bool]]) -> None:
    pace, now, waiting = Pace(0.0), 0.0, 0
    for tokens, passed, ends in happens:
        now += passed
        if ends:
            pace.begins(waiting, now)
            waiting = 0
        else:
            pace.waits(tokens, now)
            waiting += tokens
        wait_s = pace.wait_s(100, now)
        assert wait_s is None or (wait_s >= 0 and math.isfinite(wait_s))


def test_jobs_of_batch_inference_have_a_room_of_their_own() -> None:
    admission = Admission(Limits(max_requests=4, max_waiting_tokens=100))
    with admission.enter(1, ServiceTier.BATCH) as first, admission.enter(1, ServiceTier.BATCH) as second:
        first.wait_for(20)
        with pytest.raises(Full, match=r"20 tokens.*6 more.*25 .max_waiting_tokens, for `service_tier` batch"):
            second.wait_for(6)
        with pytest.raises(Full, match=r"2 generations.*above 2 .max_requests for the class batch"):
            admission.enter(1, ServiceTier.BATCH).__enter__()
        with admission.enter(4) as online:  # nothing of what others have is taken
            online.wait_for(100)
            assert (admission.requests, admission.waiting_tokens) == (6, 120)
    assert (admission.requests, admission.waiting_tokens) == (0, 0)


def test_what_a_batch_waits_for_does_not_make_others_wait() -> None:
    clock = _Clock()
    admission = Admission(Limits(max_wait_s=8), clock)
    with admission.enter(1, ServiceTier.BATCH) as batch, admission.enter(1) as first:
        batch.wait_for(1000)  # paused for others all the time
        for _ in range(20):
            with admission.enter(1) as place:
                place.wait_for(100)
                clock.now += 0.1
                place.begun()
            clock.now += 5
        first.wait_for(100)
        with admission.enter(1) as place:
            place.wait_for(100)  # by their own pace, of 1,000 tokens a second
        assert batch.yields
        assert not first.yields


def test_a_batch_that_others_keep_waiting_is_sent_away() -> None:
    clock = _Clock()
    admission = Admission(Limits(max_wait_s=8), clock)
    with admission.enter(1, ServiceTier.BATCH) as batch:
        batch.wait_for(1000)
        clock.now += 10
        batch.begun(100)
        with pytest.raises(Full, match=r"above 2 s .max_wait_s, for `service_tier` batch"):
            admission.enter(1, ServiceTier.BATCH).__enter__()


def test_a_standstill_lets_no_batch_in_and_asks_to_come_back_in_a_minute() -> None:
    clock = _Clock()
    admission = Admission(Limits(), clock)
    with admission.enter(1, ServiceTier.BATCH) as batch:
        batch.wait_for(1000)
        clock.now += 10
        batch.begun(900)
        clock.now += 60
        for _ in range(60):
            clock.now += 10
            with pytest.raises(Full) as caught:
                admission.enter(1, ServiceTier.BATCH).__enter__()
        assert retry_after_s(caught.value) == 60


def test_the_class_batch_comes_last_and_is_asked_for_by_its_header() -> None:
    assert service_tier("priority", "batch") is ServiceTier.BATCH
    assert service_tier(None, "") is ServiceTier.DEFAULT
    assert max(ServiceTier, key=lambda tier: tier.rank) is ServiceTier.BATCH
    with pytest.raises(InvalidArgument, match="only batch is known"):
        service_tier(None, "urgent")
