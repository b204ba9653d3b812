"""Canaries from the first step to the last: weights, replicas, verdicts, promotion, undo, and masters that die."""

from __future__ import annotations

from random import Random

import pytest
from canary_world import DEPLOYMENT, CanaryWorld, Quality, rules, tried
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.master.canary import FAILED, CanaryPolicy, Evidence, Step, at_least, verdict
from serving.master.model import CreateReplica


def test_weights_move_step_by_step_and_replicas_come_before_them() -> None:
    world = CanaryWorld(())
    canary = rules(5, 50)
    world.start(canary=canary)
    world.deploy(2, 2, canary=canary)
    seen: list[float] = []
    for _ in range(60):
        served = world.tick()
        if world.weight >= 0 and (not seen or seen[-1] != world.weight):
            seen.append(world.weight)
        if world.weight == 0:
            assert served[2] == 0, "nothing before the first step"
        if 0 < world.weight <= 50:
            new = world.revisions().count(2)
            assert new >= 4 * world.weight / 100, "not more than the replicas are there for"
    assert seen[:4] == [0, 5, 25, 50], "it grows with the replicas that are ready"
    assert seen == sorted(seen), "the weight never goes back"
    assert world.revisions() == [2, 2, 2, 2]
    assert world.weight == -1
    assert not world.stored.splits  # type: ignore[union-attr]


def test_the_first_revision_has_nobody_to_share_with() -> None:
    world = CanaryWorld(())
    world.start(canary=rules(5))
    assert world.weight == -1


def test_no_replica_of_the_new_revision_starts_before_clients_can_know() -> None:
    world = CanaryWorld(())
    canary = rules(5)
    world.start(canary=canary)
    world.deploy(2, 2, canary=canary)
    world.store_away = True
    for _ in range(20):
        world.tick()
    assert world.revisions() == [1, 1, 1, 1]
    assert len(world.living(DEPLOYMENT)) == 4
    world.store_away = False
    for _ in range(60):
        world.tick()
    assert world.revisions() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("quality", "checks", "says"),
    [
        (Quality(failing=0.5), {}, "requests failed"),
        (Quality(takes_s=0.5), {"max_p99_s": 0.2}, "at most 200 ms is allowed"),
        (Quality(takes_s=0.5), {"max_p99_ratio": 3.0}, "at most 3 times that is allowed"),
    ],
)
def test_a_revision_that_does_badly_gets_nothing_any_more(
    quality: Quality, checks: dict[str, float], says: str
) -> None:
    canary = rules(25, 50, for_s=60.0, **checks)
    world = tried(canary, seconds=60, r2=quality)
    assert world.canary.phase == FAILED
    assert says in world.canary.reason
    assert world.revisions() == [1, 1, 1, 1], "the old ones are as many as before"
    assert world.tick()[2] == 0
    world.forget()
    world.hear()
    for _ in range(20):
        assert world.tick()[2] == 0, "another master does not try it again"
    world.deploy(3, 1, canary=canary)  # undo
    for _ in range(10):
        world.tick()
    assert (world.revisions(), world.weight) == ([1, 1, 1, 1], -1)


def test_one_that_does_not_start_fails_without_a_request() -> None:
    world = CanaryWorld((), bad=frozenset({2}))
    canary = rules(25)
    world.start(canary=canary)
    world.deploy(2, 2, canary=canary)
    for _ in range(120):
        assert world.tick()[2] == 0
    assert world.canary.phase == FAILED
    assert "3 replicas in a row have failed" in world.canary.reason
    assert world.revisions() == [1, 1, 1, 1]


def test_a_step_waits_for_requests_and_for_people() -> None:
    world = CanaryWorld(())
    canary = rules(10, -50, min_requests=30)
    world.start(canary=canary)
    world.deploy(2, 2, canary=canary)
    for _ in range(40):
        world.tick(requests=0)
    assert (world.weight, world.canary.step) == (10, 1)
    assert "0 of 30 requests" in world.canary.reason
    for _ in range(60):
        world.tick()
    assert (world.weight, world.canary.step) == (50, 2)
    assert "waits until it is promoted" in world.canary.reason
    world.order.stored.promoted = 2
    for _ in range(30):
        world.tick()
    assert world.revisions() == [2, 2, 2, 2]


def test_promoted_fully_it_goes_on_at_once_and_still_may_fail() -> None:
    canary = rules(-10, -50)
    world = tried(canary, seconds=10)
    world.order.stored.promoted = 1
    world.quality[2] = Quality(failing=0.9)
    for _ in range(20):
        world.tick()
    assert world.canary.phase == FAILED
    world.quality[3] = Quality()
    world.deploy(3, 3, canary=canary)
    for _ in range(10):
        world.tick()
    world.order.stored.promoted = 2
    for _ in range(30):
        world.tick()
    assert world.revisions() == [3, 3, 3, 3]


@given(
    replicas=st.integers(1, 12),
    weights=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(sorted),
    surge=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_each_side_has_what_its_share_needs(replicas: int, weights: list[int], surge: int) -> None:
    world = CanaryWorld(())
    canary = rules(*weights, for_s=2.0, min_requests=0)
    world.start(replicas, canary)
    world.deploy(2, 2, replicas=replicas, canary=canary)
    world.order.stored.spec.deployments[0].rollout.max_surge.count = surge
    for _ in range(40 + 12 * replicas):
        world.tick(requests=5)
        assert len(world.living(DEPLOYMENT)) <= replicas + surge
        if world.weight >= 0:
            new, old = world.revisions().count(2), world.revisions().count(1)
            assert new >= replicas * world.weight / 100 - 0.01
            assert old >= replicas * (100 - world.weight) / 100 - 0.01
    assert world.revisions() == [2] * replicas


def test_processes_that_end_by_themselves_fail_it() -> None:
    canary = rules(-25)
    world = tried(canary, seconds=10)
    for _ in range(3):
        world.die(next(name for name in world.serving(DEPLOYMENT) if name.revision == 2))
        for _ in range(14):
            world.tick()
    assert world.canary.phase == FAILED
    assert "have ended 3 times by themselves" in world.canary.reason


def test_old_replicas_that_do_not_start_are_tried_after_pauses() -> None:
    canary = rules(25)
    world = tried(canary, seconds=40, r2=Quality(failing=0.9))
    world.bad = frozenset({1})
    for name in sorted(world.serving(DEPLOYMENT))[:2]:
        del world.actors[name]
    created = 0
    for _ in range(100):
        actions = world.actions()
        created += sum(isinstance(action, CreateReplica) for action in actions)
        world.apply(actions)
        world.write()
        world.everything_goes_on()
        world.now += 1.0
    assert created < 20


@given(
    replicas=st.integers(1, 6),
    weights=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(sorted),
    outcome=st.sampled_from(["good", "failing", "does not start"]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=30, deadline=None)
def test_whatever_happens_somebody_answers_and_it_ends_where_it_should(
    replicas: int, weights: list[int], outcome: str, seed: int
) -> None:
    chance = Random(seed)
    world = CanaryWorld((), bad=frozenset({2} if outcome == "does not start" else ()))
    canary = rules(*weights, for_s=3.0, min_requests=5)
    world.start(replicas, canary)
    world.quality[2] = Quality(failing=0.6 if outcome == "failing" else 0.0)
    world.deploy(2, 2, replicas=replicas, canary=canary)
    for _ in range(60):
        for action in world.act_in_part(chance.randint(0, 4)):
            assert not isinstance(action, CreateReplica) or len(world.living(DEPLOYMENT)) <= replicas + 1
        if chance.random() < 0.8:
            world.write()
        if chance.random() < 0.1:
            world.forget()
            world.hear()
        others = world.revisions().count(1 if world.weight < 50 else 2) > 1  # are there that may answer
        if others and chance.random() < 0.05:
            world.die(chance.choice(sorted(world.living(DEPLOYMENT))))
        world.everything_goes_on()
        world.now += 1.0
        world.serve(10)
    for _ in range(150):
        world.tick(requests=30)
    assert world.revisions() == [2 if outcome == "good" else 1] * replicas
    assert world.tick()[2] == (40 if outcome == "good" else 0)


def test_verdicts() -> None:
    policy = CanaryPolicy((Step(500, 1.0),), max_error_rate=0.1, min_requests=10)
    assert not verdict(policy, Evidence(9, 9, 9), Evidence())
    assert not verdict(policy, Evidence(10, 3), Evidence()), "that may be chance"
    assert verdict(policy, Evidence(10, 6), Evidence()) == "6 of 10 requests failed (0.6; at most 0.1 may)"
    assert verdict(policy, Evidence(1000, 140), Evidence())
    slow = Evidence(100, 0, 100, ((0.1, 0), (1.0, 100)))
    quick = Evidence(100, 0, 100, ((0.1, 100), (1.0, 100)))
    assert [slow.slower_than(seconds) for seconds in (0.05, 0.1, 0.55, 1.0, 2.0)] == [100, 100, 50, 0, 0]
    ratio = CanaryPolicy((Step(500, 1.0),), max_p99_ratio=2.0, min_requests=10)
    assert not verdict(ratio, slow, Evidence()), "nothing to compare with"
    assert not verdict(ratio, quick, quick)
    assert not verdict(ratio, Evidence(99, 0, 99, ((0.1, 0), (1.0, 99))), quick), "too few to speak of p99"
    assert (at_least(0, 10), at_least(10, 10) > 0.5, at_least(1, 20) > 0) == (0.0, True, True)
    assert "that of the old replicas" in verdict(ratio, slow, quick)
