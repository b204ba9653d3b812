"""The order in which a route's models are asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from serving.routing import ModelRoute, WeightedModel


def route(weights: dict[str, int], *fallbacks: str) -> ModelRoute:
    return ModelRoute("r", [WeightedModel(model, weight) for model, weight in weights.items()], fallbacks)


def test_targets_then_fallbacks_each_once() -> None:
    made = route({"a": 3, "none": 0, "b": 1}, "none", "c")
    for key in ("", "ann", "bob"):
        order = made.order(key, random.random)
        assert set(order[:2]) == {"a", "b"}
        assert order[2:] == ("none", "c"), "a target without weight may be a fallback"
    assert made.models() == ("a", "none", "b", "c")


@pytest.mark.parametrize("keyed", [False, True])
def test_shares(keyed: bool) -> None:
    """Six standard deviations of a binomial distribution: 2,000 times 0.2."""
    made, chance = route({"a": 80, "b": 20}), random.Random(7).random
    first = Counter(made.order(f"user-{n}" if keyed else "", chance)[0] for n in range(2000))
    assert 292 <= first["b"] <= 508, first


def test_a_key_stays_and_moves_only_when_it_must() -> None:
    keys = [f"user-{n}" for n in range(500)]
    before = {key: route({"a": 90, "b": 10}).order(key, random.random)[0] for key in keys}
    same = {key: route({"a": 90, "b": 10}).order(key, random.random)[0] for key in keys}
    after = {key: route({"a": 80, "b": 20}).order(key, random.random)[0] for key in keys}
    assert before == same
    moved = [key for key in keys if before[key] != after[key]]
    assert moved
    assert {after[key] for key in moved} == {"b"}, "none goes from the one that grows"


def test_the_rare_side_is_another_one_for_each_route() -> None:
    targets = [WeightedModel("a", 90), WeightedModel("b", 10)]
    keys = [f"user-{n}" for n in range(500)]
    rare = [{key for key in keys if ModelRoute(name, targets).order(key, random.random)[0] == "b"} for name in "xy"]
    assert rare[0]
    assert rare[0] != rare[1]


def test_chances_at_their_ends() -> None:
    assert route({"a": 1, "b": 1}).order("", lambda: 0.0) == ("a", "b")
    assert len(route({"a": 1, "b": 1_000_000}).order("", lambda: 1.0 - 2**-53)) == 2
