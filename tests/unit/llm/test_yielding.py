"""How many generations that give way are computed beside others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.llm.step_cost import StepCost
from serving.llm.yielding import Yielding, YieldingRoom


def learned(fixed: float, each: float, numbers: tuple[int, ...] = (1, 4, 16, 32)) -> StepCost:
    cost = StepCost()
    for _ in range(20):
        for number in numbers:
            cost.note(number, fixed + each * number)
    return cost


def room(most: int = 32, *, fixed: float = 0.0, each: float = 0.0, share: float = 0.05) -> YieldingRoom:
    made = YieldingRoom(Yielding(share, patience_s=30.0), most)
    if each:
        made.cost = learned(fixed, each)
    return made


def test_a_step_becomes_longer_by_the_share_at_most() -> None:
    cost = learned(0.095, 0.005)
    assert cost.beside(1, 0.05) == 1  # a step of one takes 100 ms, 5 ms more are one generation more
    assert cost.beside(1, 0.049) == 0
    assert cost.beside(1, 1.0) == 20
    assert cost.beside(21, 0.05) == 2


@given(st.floats(0.0005, 0.2), st.floats(0.01, 1.0), st.integers(1, 64), st.floats(0.0, 2.0), st.integers(4, 64))
def test_what_a_step_costs_is_found_in_any_steps(
    fixed: float, slope: float, others: int, share: float, most: int
) -> None:
    each = slope * fixed
    found = learned(fixed, each, (1, most)).beside(others, share)
    assert found is not None
    allowed = share * (fixed + each * others)
    assert found * each <= allowed * 1.001 + 1e-9
    assert (found + 1) * each >= allowed * 0.999 - 1e-9


def test_steps_that_are_all_alike_say_nothing() -> None:
    cost = StepCost()
    assert cost.beside(1, 0.5) is None
    for _ in range(50):
        cost.note(8, 0.01)
    assert cost.beside(8, 0.5) is None


def test_a_cost_follows_what_steps_take_now() -> None:
    cost = learned(0.1, 0.001)
    for number in (1, 16) * 300:
        cost.note(number, 0.1 + 0.01 * number)
    found = cost.beside(1, 0.5)
    assert found == 5


def test_a_step_that_was_held_up_counts_little() -> None:
    cost = learned(0.095, 0.005)
    cost.note(1, 5.0)
    found = cost.beside(20, 0.5)
    assert found is not None
    assert 15 <= found <= 30  # 19.5 before


def test_noise_does_not_make_a_generation_look_cheap() -> None:
    chance, cost = random.Random(1), StepCost()
    found = []
    for _ in range(500):
        number = chance.randint(1, 4)
        cost.note(number, (0.01 + 0.001 * number) * chance.uniform(0.7, 1.5))
        found.append(cost.beside(4, 0.05))
    assert not any(found[50:])  # 0.7 of one is allowed


def test_prompts_beside_others_take_the_share_of_the_time() -> None:
    assert room(share=0.05).pause_s(0.01) == pytest.approx(0.2)
    assert room(share=0.0).pause_s(0.01) == float("inf")


def test_none_run_beside_others_while_nobody_knows_what_that_costs() -> None:
    assert room().places(others=1, now=10.0) == 0


def test_beside_others_run_as_many_as_their_steps_allow() -> None:
    made = room(fixed=0.09, each=0.001)
    assert made.places(others=10, now=10.0) == 5
    assert made.places(others=30, now=10.0) == 2  # of 32 in all
    assert made.places(others=40, now=10.0) == 0


def test_all_places_are_theirs_where_others_never_came() -> None:
    made = room(most=8)
    assert made.places(others=0, now=0.0) == 8
    assert made.rest_s(0.0) > 0.0


def test_after_others_a_few_resume_soon_and_all_of_them_later() -> None:
    made = room(fixed=0.9, each=0.1)
    assert made.places(others=2, now=10.0) == 0
    assert made.places(others=0, now=10.001) == 0  # the end of an answer may be the beginning of another
    assert made.rest_s(10.001) == pytest.approx(0.004)
    assert made.places(others=0, now=10.006) == 6  # whose steps are by a half longer than that of one
    assert made.places(others=0, now=11.9) == 6
    assert made.places(others=0, now=12.1) == 32


def test_one_resumes_after_others_where_nobody_knows_what_more_would_cost() -> None:
    made = room()
    made.places(others=1, now=10.0)
    assert made.places(others=0, now=10.1) == 1


def test_a_patience_has_an_end() -> None:
    made = room()
    assert not made.is_due(100.0, 129.9)
    assert made.is_due(100.0, 130.0)


@pytest.mark.parametrize(("most", "fixed"), [(1, 1), (3, 3), (4, 3), (32, 24)])
def test_those_that_cannot_be_paused_leave_places(most: int, fixed: int) -> None:
    assert room(most=most).most_fixed == fixed
