"""The choice by tokens: what waits, what is known of a prompt, and when neither prefix nor session counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.routing.least_tokens import least_tokens, not_overloaded, waiting_tokens
from serving.routing.llm_routing import LlmRouting


@dataclass(frozen=True)
class Replica:
    name: str
    outstanding_tokens: float = 0.0
    weight: int = 100
    known: float = 0.0


def chosen(*replicas: Replica, prompt_tokens: float = 1000.0) -> str:
    found = least_tokens(replicas, Random(1).random, prompt_tokens=prompt_tokens, known=lambda one: one.known)
    assert found is not None
    return found.name


def test_a_known_prefix_is_worth_as_many_tokens_as_it_has() -> None:
    assert chosen(Replica("knows", outstanding_tokens=700, known=800), Replica("idle")) == "knows"
    assert chosen(Replica("knows", outstanding_tokens=900, known=800), Replica("idle")) == "idle"


def test_more_than_the_whole_prompt_cannot_be_known() -> None:
    assert chosen(Replica("all", outstanding_tokens=60, known=1000), Replica("idle"), prompt_tokens=50) == "idle"


def test_a_replica_of_twice_the_weight_computes_twice_as_much() -> None:
    assert chosen(Replica("strong", outstanding_tokens=900, weight=200), Replica("usual")) == "strong"
    assert chosen(Replica("strong", outstanding_tokens=1100, weight=200), Replica("usual")) == "usual"
    assert waiting_tokens(Replica("none", outstanding_tokens=10, weight=0)) == 1000


def test_ties_are_shared_evenly() -> None:
    random = Random(3)
    replicas = [Replica(name) for name in "abcd"]
    counts = Counter(
        found.name
        for _ in range(4000)
        if (found := least_tokens(replicas, random.random, prompt_tokens=10, known=lambda one: one.known))
    )
    assert set(counts) == set("abcd")
    assert all(850 < count < 1150 for count in counts.values()), counts


def test_of_equal_ones_the_emptiest_is_chosen() -> None:
    held = {"a": 5.0, "b": 3.0, "c": 9.0}
    replicas = [Replica("a"), Replica("b"), Replica("c", known=500)]
    options: Any = {"prompt_tokens": 1000, "known": lambda one: one.known, "held": lambda one: held[one.name]}
    assert least_tokens(replicas, Random(1).random, **options) == replicas[2]
    assert least_tokens(replicas[:2], Random(1).random, **options) == replicas[1]


def test_nobody_is_chosen_of_nobody() -> None:
    assert least_tokens([], Random(1).random, prompt_tokens=1, known=lambda one: one.known) is None
    assert not_overloaded([], 10) == []


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.floats(0, 1e5), st.integers(0, 7), st.floats(0, 1e5))
def test_none_is_chosen_that_has_much_more_than_the_least_busy_one(
    waiting: list[float], overload: float, knows: int, prompt: float
) -> None:
    replicas = [
        Replica(str(at), outstanding_tokens=tokens, known=prompt if at == knows else 0.0)
        for at, tokens in enumerate(waiting)
    ]
    fit = not_overloaded(replicas, overload)
    found = least_tokens(fit, Random(1).random, prompt_tokens=prompt, known=lambda one: one.known)
    assert found is not None
    assert found.outstanding_tokens <= min(waiting) + min(overload, prompt) + 1e-6 * max(waiting)


def test_what_a_record_says_and_what_a_newer_one_would() -> None:
    assert LlmRouting.from_record(pb.LlmRouting()) == LlmRouting()
    record = pb.LlmRouting(choice="least_tokens", session_keys=["user"], overload_tokens=5, answer_weight=0.0)
    assert LlmRouting.from_record(record) == LlmRouting("least_tokens", ("user",), 5, 0.0)
    newer = pb.LlmRouting(choice="by_the_moon", session_keys=["moon"])
    assert LlmRouting.from_record(newer) == LlmRouting()
    both = LlmRouting.from_record(pb.LlmRouting(session_keys=["moon", "user"]))
    assert both.session_keys == ("user",)
    with pytest.raises(AttributeError):
        both.choice = "prefix"  # type: ignore[misc]
