"""Which keys move when endpoints change, and how many each has. What is chosen is in tests/contract/routing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing import RendezvousMember, rendezvous_best, rendezvous_order, stable_hash
from serving.routing.rendezvous import _mixed, rendezvous_score

KEYS = [f"user-{number}" for number in range(20_000)]


def members(*weights: int) -> list[RendezvousMember]:
    return [RendezvousMember(f"replica-{index}", weight) for index, weight in enumerate(weights)]


def owners(of: list[RendezvousMember]) -> list[str]:
    return [of[rendezvous_order(key, of)[0]].id for key in KEYS]


def test_the_finalizer_is_that_of_splitmix64() -> None:
    """Its first numbers from the seed 0, as published with the generator."""
    step = 0x9E3779B97F4A7C15
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [_mixed(step * count % 2**64) for count in (1, 2, 3)] == published


def test_shares_follow_the_weights() -> None:
    counted = Counter(owners(members(100, 200, 100, 50)))
    shares = {name: count / len(KEYS) for name, count in counted.items()}
    wanted = {"replica-0": 100 / 450, "replica-1": 200 / 450, "replica-2": 100 / 450, "replica-3": 50 / 450}
    assert shares == pytest.approx(wanted, abs=0.01)


def test_only_keys_of_who_left_move() -> None:
    before, after = owners(members(100, 100, 100, 100)), owners(members(100, 100, 100))
    moved = [was for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"replica-3"}
    assert len(moved) == before.count("replica-3")
    gets = Counter(now for was, now in zip(before, after, strict=True) if was != now)
    assert min(gets.values()) > len(moved) / 4, "and they are spread over the others"


def test_more_weight_only_takes() -> None:
    before, after = owners(members(100, 100, 100)), owners(members(100, 300, 100))
    assert {now for was, now in zip(before, after, strict=True) if was != now} == {"replica-1"}


@given(st.text(), st.lists(st.tuples(st.text(max_size=3), st.integers(0, 300)), max_size=8), st.integers(0, 255))
def test_the_best_is_the_first_allowed_of_the_order(key: str, given_members: list[tuple[str, int]], mask: int) -> None:
    of = [RendezvousMember(*member) for member in given_members]
    order = rendezvous_order(key, of)
    assert sorted(order) == list(range(len(of)))
    first = next((index for index in order if mask >> index & 1), None)
    assert rendezvous_best(key, of, lambda index: bool(mask >> index & 1)) == first


@pytest.mark.parametrize("wanted", [0, 2**64 - 1])
def test_the_ends_of_the_hash_have_a_score(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.routing.rendezvous._mixed", lambda _: wanted)
    assert 0.0 < rendezvous_score(stable_hash("k"), RendezvousMember("a", 100)) < float("inf")
