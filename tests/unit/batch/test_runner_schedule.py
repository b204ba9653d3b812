"""Which batch is next: fair between tenants, the nearest deadline within one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice

import pytest

from serving.batch.runner.schedule import HALF_LIFE_S, SLICE_S, Candidate, Given, displaced, in_turn, used


def waits(tenant: str, name: str, *, due: float = 100.0) -> Candidate:
    return Candidate(tenant, name, created_at=0.0, expires_at=due)


def runs(tenant: str, name: str, *, since: float = 0.0, due: float = 100.0, here: bool = True) -> Candidate:
    return Candidate(tenant, name, 0.0, due, running_since=since, here=here)


def names(found: Iterable[Candidate]) -> list[str]:
    return [one.id for one in found]


def test_the_nearest_deadline_of_a_tenant_is_first() -> None:
    assert names(in_turn([waits("a", "late", due=9), waits("a", "soon", due=3)], {})) == ["soon", "late"]


def test_a_tenant_with_many_batches_does_not_starve_another() -> None:
    many = [waits("a", f"a{index}", due=index) for index in range(10)]
    assert names(islice(in_turn([*many, waits("b", "b0", due=1000)], {}), 3)) == ["a0", "b0", "a1"]
    assert names(in_turn([runs("a", "x", here=False), *many, waits("b", "b0", due=1000)], {}))[0] == "b0"


def test_who_was_given_less_is_first() -> None:
    assert names(in_turn([waits("a", "a0"), waits("b", "b0")], {"a": 5.0})) == ["b0", "a0"]


def test_what_was_given_fades() -> None:
    given = [Given("a", 8.0, at=0.0), Given("a", 2.0, at=HALF_LIFE_S), Given("b", 4.0, at=2 * HALF_LIFE_S)]
    assert used(given, HALF_LIFE_S * 2) == pytest.approx({"a": 3.0, "b": 4.0})


def test_the_order_does_not_depend_on_that_of_the_records() -> None:
    every = [waits(tenant, f"{tenant}{index}", due=index % 3) for tenant in "abc" for index in range(5)]
    wanted = list(in_turn(every, {"b": 1.0}))
    for seed in range(20):
        assert list(in_turn(random.Random(seed).sample(every, len(every)), {"b": 1.0})) == wanted


def test_a_look_at_many_that_wait_costs_what_it_takes() -> None:
    every = [waits(f"t{tenant}", f"{tenant}-{index}", due=index) for tenant in range(1000) for index in range(20)]
    looked: list[str] = []

    class Counted(dict[str, float]):
        def get(self, name: str, default: float = 0.0) -> float:  # type: ignore[override]
            looked.append(name)
            return default

    assert len(names(islice(in_turn(every, Counted()), 4))) == 4
    assert len(looked) <= 1000 + 4


def test_a_batch_makes_room_for_a_tenant_with_nothing_running() -> None:
    full = [runs("a", "first", due=1), runs("a", "second", due=2)]
    found = displaced([*full, waits("b", "b0")], {}, SLICE_S)
    assert found is not None
    assert found.id == "second"
    assert displaced([*full, waits("b", "b0")], {}, SLICE_S - 1) is None, "it has had no slice yet"
    assert displaced([*full, waits("a", "third")], {}, SLICE_S) is None, "nobody else waits"
    assert displaced([*full, runs("b", "b1", here=False), waits("b", "b0")], {}, SLICE_S) is None, "it has its share"


def test_the_only_batch_of_a_tenant_gives_way_to_who_was_given_less() -> None:
    both = [runs("a", "a0"), waits("b", "b0")]
    assert displaced(both, {"a": 1.0}, SLICE_S) == both[0]
    assert displaced(both, {"a": 1.0, "b": 1.0}, SLICE_S) is None


def test_a_batch_whose_output_is_being_made_stays() -> None:
    full = [runs("a", "first", due=1), runs("a", "second", due=2)]
    found = displaced([*full, waits("b", "b0")], {}, SLICE_S, kept={full[1].key})
    assert found == full[0]
