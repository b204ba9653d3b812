"""Each rule of the queue, by example."""

from __future__ import annotations

import math
from typing import Any

import pytest

from serving.broker.queue import DEFAULT, HIGH, LOW, QueueSettings, Waiting, WaitingQueue
from serving.errors import AlreadyExists, InvalidArgument

PLACES = 1000


def item(number: int, tenant: str = "", **more: Any) -> Waiting:
    fields = {
        "priority": DEFAULT,
        "deadline": math.inf,
        "submitted": 0.0,
        "expected_s": 1.0,
        "size_bytes": 10,
    }
    return Waiting(number, tenant, **(fields | more))


def queue_of(*items: Waiting, now: float = 0.0, **rules: Any) -> WaitingQueue:
    queue = WaitingQueue(QueueSettings(**rules))
    for each in items:
        queue.add(each, now)
    return queue


def taken(queue: WaitingQueue, now: float = 0.0, places: int = PLACES) -> list[int]:
    """Numbers, in order, until nothing may be taken."""
    numbers = []
    while (found := queue.take(now, places)) is not None:
        numbers.append(found.number)
    return numbers


def known(queue: WaitingQueue, expected_s: float = 1.0) -> WaitingQueue:
    """With a running median."""
    for number in range(-20, 0):
        queue.add(item(number, expected_s=expected_s), 0.0)
        assert queue.take(0.0, 10**9) is not None
        queue.release(number)
    return queue


class TestOrder:
    def test_in_the_order_of_submission(self) -> None:
        assert taken(queue_of(item(2, submitted=2.0), item(1, submitted=1.0), item(3, submitted=2.0))) == [1, 2, 3]

    def test_higher_classes_first(self) -> None:
        assert taken(queue_of(item(1, priority=LOW), item(2), item(3, priority=HIGH))) == [3, 2, 1]

    def test_the_earliest_deadline_first(self) -> None:
        assert taken(queue_of(item(1, deadline=50.0), item(2, deadline=20.0), item(3))) == [2, 1, 3]

    def test_without_a_deadline_as_if_it_were_due_after_the_patience(self) -> None:
        queue = queue_of(item(1), item(2, deadline=99.0), item(3, deadline=101.0), patience_s=100.0)
        assert taken(queue) == [2, 1, 3]

    def test_a_class_comes_before_a_deadline(self) -> None:
        assert taken(queue_of(item(1, deadline=5.0), item(2, priority=HIGH))) == [2, 1]


class TestAgeing:
    def test_rises_by_one_class_for_each_time_that_it_waited(self) -> None:
        old = item(1, priority=LOW, submitted=0.0)
        queue = queue_of(old, *(item(n, "other", submitted=59.0) for n in (2, 3)), ageing_s=60.0)
        assert queue.take(59.0, PLACES) == item(2, "other", submitted=59.0)
        assert queue.take(59.0, PLACES) == item(3, "other", submitted=59.0)
        queue.add(item(4, "other", submitted=59.0), 60.0)
        assert taken(queue, 60.0) == [1, 4], "level with DEFAULT, and it was there first"

    def test_does_not_rise_above_high(self) -> None:
        queue = queue_of(item(1, "a", priority=LOW), ageing_s=60.0)
        queue.add(item(2, "b", priority=HIGH, submitted=1e6), 1e6)
        queue.add(item(3, "b", priority=HIGH, submitted=1e6), 1e6)
        assert sorted(taken(queue, 1e6)[:2]) == [1, 2], "one turn each"

    def test_what_has_risen_shares_the_turns_of_its_tenant(self) -> None:
        queue = queue_of(*(item(n, priority=LOW) for n in range(10)), ageing_s=60.0)
        for number in range(10, 20):
            queue.add(item(number, priority=HIGH, submitted=1000.0), 1000.0)
        order = taken(queue, 1000.0)
        for length in range(2, 21):
            assert abs(sum(n < 10 for n in order[:length]) - sum(n >= 10 for n in order[:length])) <= 1
        assert [n for n in order if n < 10] == list(range(10))

    def test_going_back_keeps_the_age(self) -> None:
        queue = queue_of(item(1, priority=LOW), ageing_s=60.0)
        back = queue.take(0.0, PLACES)
        assert back is not None
        queue.release(1)
        queue.add(back, 61.0)
        queue.add(item(2, "other", submitted=61.0), 61.0)
        queue.add(item(3, "other", submitted=61.0), 61.0)
        assert taken(queue, 61.0).index(1) < 2, "level with DEFAULT, where each gets a turn"

    def test_a_clock_that_is_set_back_harms_nothing(self) -> None:
        queue = queue_of(item(1, submitted=100.0), now=100.0)
        assert queue.oldest(50.0) == 0.0
        assert queue.take(1e6, PLACES) == item(1, submitted=100.0)
        queue.add(item(2, submitted=50.0, deadline=99.0), 50.0)
        assert taken(queue, 60.0) == [2]


class TestTenants:
    def test_one_tenants_thousand_delay_anothers_first_by_one_turn(self) -> None:
        queue = queue_of(*(item(n, "many") for n in range(1000)))
        queue.add(item(1000, "few"), 0.0)
        assert taken(queue).index(1000) <= 1

    def test_by_predicted_seconds(self) -> None:
        # Three times as long is not yet long, so that all wait in one lane.
        queue = queue_of(*(item(n, "slow", expected_s=3.0) for n in range(30)))
        for number in range(30, 120):
            queue.add(item(number, "quick", expected_s=1.0), 0.0)
        order = taken(queue)
        for length in range(1, 121):
            slow = sum(n < 30 for n in order[:length]) * 3.0
            assert abs(slow - sum(n >= 30 for n in order[:length])) <= 4.0

    def test_by_weight(self) -> None:
        queue = queue_of(tenant_weights={"double": 2.0})
        for number in range(90):
            queue.add(item(number, "double" if number % 2 else "single"), 0.0)
        assert sum(number % 2 for number in taken(queue)[:30]) == pytest.approx(20, abs=1)

    def test_who_comes_anew_has_saved_nothing_up(self) -> None:
        queue = queue_of(*(item(n, "a") for n in range(100)))
        first = [queue.take(0.0, PLACES) for _ in range(50)]
        assert all(first)
        for number in range(100, 150):
            queue.add(item(number, "b"), 0.0)
        assert sum(n >= 100 for n in taken(queue)[:20]) == pytest.approx(10, abs=1)

    def test_who_waits_with_one_at_a_time_gets_its_share_and_no_more(self) -> None:
        queue = queue_of(*(item(n, f"t{n % 4}") for n in range(400)))
        queue.add(item(1000, "one at a time"), 0.0)
        mine = 0
        for turn in range(100):
            found = queue.take(0.0, PLACES)
            assert found is not None
            if found.tenant == "one at a time":
                mine += 1
                queue.add(item(1001 + turn, "one at a time"), 0.0)
        assert 15 <= mine <= 21

    def test_ever_new_tenants_do_not_keep_one_waiting(self) -> None:
        queue = queue_of(item(1, "a"), item(2, "a"))
        assert queue.take(0.0, PLACES) is not None
        queue.add(item(3, "new 0"), 0.0)
        for turn in range(3):
            queue.add(item(10 + turn, f"new {turn + 1}"), 0.0)
            found = queue.take(0.0, PLACES)
            assert found is not None
            if found.number == 2:
                return
        pytest.fail("the second item of `a` was passed by each tenant that came")

    def test_items_that_take_no_time_are_shared_out_too(self) -> None:
        queue = queue_of(*(item(n, "ab"[n // 50], expected_s=0.0) for n in range(100)))
        assert sum(n < 50 for n in taken(queue)[:20]) == 10


class TestLength:
    def test_short_ones_first_in_their_class(self) -> None:
        queue = known(queue_of())
        queue.add(item(1, expected_s=100.0), 0.0)
        queue.add(item(2), 0.0)
        assert taken(queue) == [2, 1]

    def test_a_long_one_first_that_was_submitted_much_earlier(self) -> None:
        queue = known(queue_of(ageing_s=60.0))
        queue.add(item(1, expected_s=100.0, priority=HIGH), 0.0)
        queue.add(item(2, submitted=60.0, priority=HIGH), 60.0)
        assert taken(queue, 60.0) == [1, 2]

    def test_long_ones_leave_places_while_short_ones_wait(self) -> None:
        queue = known(queue_of(short_share=0.5, long_share=0.25))
        for number in range(8):
            queue.add(item(number, expected_s=100.0, priority=HIGH), 0.0)
        for number in range(10, 30):
            queue.add(item(number), 0.0)
        assert taken(queue, places=8) == [0, 1, 2, 3, 10, 11, 12, 13]

    def test_short_ones_leave_places_while_long_ones_wait(self) -> None:
        queue = known(queue_of(short_share=0.5, long_share=0.25))
        for number in range(10, 30):
            queue.add(item(number, priority=HIGH), 0.0)
        for number in range(8):
            queue.add(item(number, expected_s=100.0), 0.0)
        assert taken(queue, places=8) == [10, 11, 12, 13, 14, 15, 0, 1]

    def test_places_that_nobody_else_wants_are_everybodys(self) -> None:
        queue = known(queue_of())
        for number in range(8):
            queue.add(item(number, expected_s=100.0), 0.0)
        assert len(taken(queue, places=8)) == 8

    def test_kept_places_are_for_short_ones_while_these_come(self) -> None:
        queue = known(queue_of(kept_share=0.375, ageing_s=60.0))
        for number in range(8):
            queue.add(item(number, expected_s=100.0), 0.0)
        assert taken(queue, 1.0, places=8) == [0, 1, 2, 3, 4]
        queue.add(item(8, submitted=1.0), 1.0)
        assert taken(queue, 1.0, places=8) == [8]
        assert taken(queue, 60.0, places=8) == []
        assert taken(queue, 61.0, places=8) == [5, 6]

    def test_released_places_count_again(self) -> None:
        queue = known(queue_of(short_share=0.5, long_share=0.25))
        for number in range(8):
            queue.add(item(number, expected_s=100.0, priority=HIGH), 0.0)
        for number in range(10, 30):
            queue.add(item(number), 0.0)
        taken(queue, places=8)
        queue.release(10)
        assert taken(queue, places=8) == [14]
        queue.release(0)
        assert taken(queue, places=8) == [4]

    def test_nothing_is_long_while_nothing_is_known(self) -> None:
        queue = queue_of(item(1, expected_s=1.0), item(2, expected_s=100.0), item(3, expected_s=1.0))
        assert taken(queue) == [1, 2, 3]

    def test_of_two_places_each_kind_may_have_one(self) -> None:
        queue = known(queue_of())
        for number in range(4):
            queue.add(item(number, expected_s=100.0 if number < 2 else 1.0), 0.0)
        assert taken(queue, places=2) == [2, 0]

    def test_places_ahead_take_nothing_from_what_is_left_for_the_other_kind(self) -> None:
        """Four run at once, four more wait behind them."""
        queue = known(queue_of())
        for number in range(20):
            queue.add(item(number, expected_s=100.0 if number < 10 else 1.0), 0.0)
        found = [one.number for _ in range(9) if (one := queue.take(0.0, 4, 4)) is not None]
        assert found == [10, 11, 12, 13, 14, 15, 0, 1]
        assert queue.took_long
        queue.release(10)
        queue.release(11)
        assert [queue.take(0.0, 4, 4).number for _ in range(2)] == [16, 17]  # type: ignore[union-attr]
        assert not queue.took_long


class TestDeadlines:
    def test_expired_ones_are_handed_out_once_and_never_taken(self) -> None:
        queue = queue_of(item(1, deadline=10.0), item(2, deadline=5.0), item(3), item(4, deadline=30.0))
        assert queue.next_deadline() == 5.0
        assert taken(queue, 10.0) == [4, 3]
        assert queue.next_deadline() == 5.0, "they wait to be handed out"
        assert len(queue) == 2
        assert [each.number for each in queue.expire(10.0)] == [2, 1]
        assert queue.expire(10.0) == []
        assert (len(queue), queue.waiting_bytes, queue.next_deadline()) == (0, 0, math.inf)

    def test_an_expired_one_can_be_cancelled_until_it_is_handed_out(self) -> None:
        queue = queue_of(item(1, deadline=10.0))
        assert queue.take(11.0, PLACES) is None
        assert queue.remove(1) == item(1, deadline=10.0)
        assert queue.expire(11.0) == []

    def test_the_next_deadline_follows_what_leaves(self) -> None:
        queue = queue_of(item(1, deadline=10.0), item(2, deadline=20.0), item(3, "other", deadline=15.0))
        queue.remove(1)
        assert queue.next_deadline() == 15.0
        queue.remove(3)
        assert queue.next_deadline() == 20.0


class TestBooks:
    def test_counts(self) -> None:
        queue = queue_of(item(1, "a", size_bytes=5), item(2, "b", size_bytes=7, submitted=3.0), item(3, "a"))
        assert (len(queue), queue.waiting_bytes, queue.running, queue.oldest(4.0)) == (3, 22, 0, 4.0)
        assert queue.tenants() == {"a": 2, "b": 1}
        assert queue.take(4.0, 1) == item(1, "a", size_bytes=5)
        assert (len(queue), queue.waiting_bytes, queue.running, queue.oldest(4.0)) == (2, 17, 1, 4.0)
        queue.remove(3)
        assert (queue.tenants(), queue.oldest(4.0)) == ({"b": 1}, 1.0)
        queue.remove(2)
        assert (queue.tenants(), queue.oldest(4.0), queue.waiting_bytes) == ({}, 0.0, 0)

    def test_no_more_than_there_are_places(self) -> None:
        queue = queue_of(item(1), item(2), item(3))
        assert taken(queue, places=2) == [1, 2]
        assert taken(queue, places=2) == []
        queue.release(1)
        assert taken(queue, places=2) == [3]

    def test_what_is_gone_is_gone(self) -> None:
        queue = queue_of(item(1), item(2))
        assert queue.remove(1) == item(1)
        assert queue.remove(1) is None
        assert taken(queue) == [2]
        assert queue.remove(2) is None
        queue.release(2)
        queue.release(2)
        assert queue.running == 0

    def test_an_item_is_there_once(self) -> None:
        queue = queue_of(item(1))
        with pytest.raises(AlreadyExists, match="item 1 "):
            queue.add(item(1), 0.0)
        taken(queue)
        with pytest.raises(AlreadyExists, match="not released"):
            queue.add(item(1), 0.0)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"priority": 0},
            {"priority": 4},
            {"deadline": math.nan},
            {"submitted": math.inf},
            {"expected_s": math.nan},
            {"expected_s": -1.0},
            {"size_bytes": -1},
        ],
    )
    def test_items_that_make_no_sense(self, wrong: dict[str, Any]) -> None:
        queue = queue_of()
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            queue.add(item(1, **wrong), 0.0)
        assert len(queue) == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"ageing_s": 0.0},
            {"patience_s": math.nan},
            {"long_factor": 1.0},
            {"short_share": 0.8},
            {"long_share": -0.1},
            {"kept_share": 1.0},
            {"tenant_weights": {"a": 0.0}},
        ],
    )
    def test_settings_that_make_no_sense(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            QueueSettings(**wrong)
