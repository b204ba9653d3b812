"""The learned bound: nothing is trusted before it was seen, and wrong hits stay below the bound."""

from __future__ import annotations

import math
import random

import pytest

from serving.cache.error_bound import (
    MAX_OBSERVATIONS,
    MIN_OBSERVATIONS,
    Observation,
    add_observation,
    generate_probability,
    observations,
)

GOOD: list[Observation] = [(0.8 + 0.01 * step, step >= 8) for step in range(20)]


def test_little_seen_means_generate() -> None:
    for count in range(MIN_OBSERVATIONS):
        assert generate_probability([(0.95, True)] * count, 0.99, 0.1) == 1.0


def test_more_similar_is_generated_less_often() -> None:
    chances = [generate_probability(GOOD * 3, similarity, 0.05) for similarity in (0.7, 0.85, 0.9, 0.95, 0.999)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.9
    assert chances[-1] < 0.6


def test_a_looser_bound_generates_less() -> None:
    strict, loose = (generate_probability(GOOD, 0.885, bound) for bound in (0.001, 0.2))
    assert loose < strict


def test_an_entry_that_is_always_wrong_is_never_trusted() -> None:
    assert generate_probability([(0.9 + 0.001 * step, False) for step in range(60)], 0.97, 0.01) > 0.9


def test_where_more_similar_is_worse_nothing_is_trusted() -> None:
    assert generate_probability([(0.8 + 0.01 * step, step < 8) for step in range(20)], 0.99, 0.1) == 1.0


@pytest.mark.parametrize("bound", [0.02, 0.1])
def test_wrong_hits_stay_below_the_bound(bound: float) -> None:
    """60 entries with thresholds of their own, 120 questions each, right with a logistic chance."""
    chance = random.Random(3)
    hits = wrong = asked = 0
    for _ in range(60):
        threshold, slope = chance.uniform(0.82, 0.95), chance.uniform(60, 200)
        seen: list[Observation] = []
        for _ in range(120):
            similarity = chance.uniform(0.8, 1.0)
            right = chance.random() < 1 / (1 + math.exp(-slope * (similarity - threshold)))
            asked += 1
            if chance.random() < generate_probability(seen, similarity, bound):
                seen = [*seen, (similarity, right)][-MAX_OBSERVATIONS:]
            else:
                hits, wrong = hits + 1, wrong + (not right)
    assert hits > 0.05 * asked  # else the bound is kept by answering nothing
    assert wrong <= bound * asked


def test_observations_are_kept_as_text_and_bounded() -> None:
    learned = None
    for step in range(MAX_OBSERVATIONS + 10):
        learned = add_observation(learned, step / 1000, step % 2 == 0)
    kept = observations(learned)
    assert len(kept) == MAX_OBSERVATIONS
    assert kept[-1] == ((MAX_OBSERVATIONS + 9) / 1000, False)
    assert observations(None) == []
