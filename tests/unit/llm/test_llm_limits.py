"""Places and waiting tokens: counted up once, down once, however a request ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ResourceExhausted
from serving.llm.limits import Admission, Limits


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
