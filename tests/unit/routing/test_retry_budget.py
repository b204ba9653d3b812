"""The retry budget is never exceeded, in any window of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.routing import RetryBudget, RetryBudgetConfig

steps = st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 0.5)), max_size=300)


@given(steps, st.floats(0, 1), st.floats(0, 20), st.floats(1, 50))
def test_never_exceeded_between_any_two_moments(
    done: list[tuple[str, float]], share: float, min_per_s: float, capacity: float
) -> None:
    budget = RetryBudget(RetryBudgetConfig(share=share, min_per_s=min_per_s, capacity=capacity))
    now = 1000.0
    history: list[tuple[float, str]] = []
    for what, pause in done:
        now += pause
        if what == "request":
            budget.request()
            history.append((now, "request"))
        elif budget.try_spend(now):
            history.append((now, "retry"))
    for start in range(0, len(history), 7):
        window = history[start:]
        retries = sum(what == "retry" for _, what in window)
        requests = len(window) - retries
        seconds = window[-1][0] - window[0][0]
        assert retries <= capacity + share * requests + min_per_s * seconds + 1e-6


@given(st.floats(1, 50))
def test_refused_when_empty_and_back_with_time(min_per_s: float) -> None:
    budget = RetryBudget(RetryBudgetConfig(share=0, min_per_s=min_per_s, capacity=3))
    assert [budget.try_spend(0.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.try_spend(0.5 / min_per_s)
    assert budget.try_spend(1.001 / min_per_s)


def test_requests_earn_their_share() -> None:
    budget = RetryBudget(RetryBudgetConfig(share=0.25, min_per_s=0, capacity=1))
    assert budget.try_spend(0.0)
    for _ in range(3):
        budget.request()
        assert not budget.try_spend(0.0)
    budget.request()
    assert budget.try_spend(0.0)


def test_time_that_goes_backwards_earns_nothing() -> None:
    budget = RetryBudget(RetryBudgetConfig(share=0, min_per_s=1, capacity=1))
    assert budget.try_spend(100.0)
    assert not budget.try_spend(50.0)
    assert not budget.try_spend(100.5)
    assert budget.try_spend(101.0)
    assert budget.left(101.0) == 0.0
