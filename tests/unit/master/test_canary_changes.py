"""What happens to a canary when other things change: revisions, sizes, rules, clusters, masters, pauses."""

from __future__ import annotations

from canary_world import CanaryWorld, Quality, rules, tried

from serving.master.canary import FAILED, FINISHING, STEPPING


def test_another_size_does_not_try_it_again_and_other_rules_do() -> None:
    canary = rules(25)
    world = tried(canary, seconds=40, r2=Quality(failing=0.5))
    assert world.canary.phase == FAILED
    world.deploy(3, 2, replicas=5, canary=canary)
    for _ in range(40):
        world.tick()
    assert (world.canary.phase, world.revisions()) == (FAILED, [1, 1, 1, 1, 1])
    world.deploy(4, 2, replicas=5, canary=rules(25, max_error_rate=1.0))
    for _ in range(60):
        world.tick()
    assert world.revisions() == [4, 4, 4, 4, 4]


def test_paused_it_stays_where_it_is() -> None:
    canary = rules(25, 50)
    world = tried(canary, seconds=8)
    assert world.weight == 25
    world.order.stored.paused = True
    for _ in range(60):
        world.tick()
    assert (world.weight, world.canary.reason) == (25, "the rollout is paused")
    world.order.stored.paused = False
    for _ in range(60):
        world.tick()
    assert world.revisions() == [2, 2, 2, 2]


def test_undo_takes_the_requests_back_at_once() -> None:
    canary = rules(25, -50)
    world = tried(canary, seconds=8)
    assert world.weight == 25
    world.deploy(3, 1, canary=canary)
    world.tick(requests=0)
    assert (world.stored.canaries[0].phase, world.weight) == (FINISHING, 100)  # type: ignore[union-attr]
    assert list(world.stored.splits[0].sides[0].revisions) == [1, 3]  # type: ignore[union-attr]
    for _ in range(30):
        world.tick()
    assert world.revisions() == [1, 1, 1, 1]
    assert world.weight == -1


def test_a_third_revision_in_the_middle_is_a_canary_of_its_own() -> None:
    canary = rules(25, 50)
    world = tried(canary, seconds=8)
    world.deploy(3, 3, canary=canary)
    world.tick()
    assert (world.weight, world.stored.canaries[0].phase) == (0, STEPPING)  # type: ignore[union-attr]
    for _ in range(80):
        world.tick()
    assert world.revisions() == [3, 3, 3, 3]


def test_a_master_that_has_not_heard_its_replicas_changes_nothing() -> None:
    canary = rules(25, -50)
    world = tried(canary, seconds=8)
    world.deploy(3, 1, canary=canary)
    world.tick()
    before = world.stored
    world.forget()
    for _ in range(10):
        world.tick()
    assert world.stored == before
    world.hear()
    for _ in range(30):
        world.tick()
    assert (world.revisions(), world.weight) == ([1, 1, 1, 1], -1)


def test_what_was_given_up_gets_nothing_and_the_stable_one_is_brought_back() -> None:
    canary = rules(-25)
    world = tried(canary, seconds=10)
    world.quality[3] = Quality(failing=0.9)
    world.deploy(3, 3, canary=canary)
    world.tick()
    for _ in range(60):
        assert world.tick()[2] == 0, "nobody has seen that it does well"
    assert (world.canary.phase, world.revisions()) == (FAILED, [1, 1, 1, 1])


def test_going_back_to_what_never_passed_is_a_canary_again() -> None:
    canary = rules(-50)
    world = tried(canary, seconds=12)
    assert world.weight == 50
    world.deploy(3, 3, canary=canary)
    world.tick()
    world.deploy(4, 2, canary=canary)
    world.tick()
    assert world.weight <= 50
    for _ in range(40):
        world.tick()
        assert world.weight <= 50
    assert world.revisions().count(1) >= 2


def test_scaled_to_none_a_failed_one_stays_failed() -> None:
    canary = rules(25)
    world = tried(canary, seconds=40, r2=Quality(failing=0.9))
    world.deploy(3, 2, replicas=0, canary=canary)
    for _ in range(10):
        world.tick(requests=0)
    assert world.revisions() == []
    world.deploy(4, 2, replicas=2, canary=canary)
    for _ in range(20):
        world.tick(requests=0)
    assert (world.revisions(), world.canary.phase) == ([1, 1], FAILED)


def test_on_another_cluster_it_goes_on_and_what_failed_stays_so() -> None:
    for quality, phase, expected in ((Quality(), STEPPING, {1, 2}), (Quality(failing=0.9), FAILED, {1})):
        world = CanaryWorld(())
        canary = rules(25, -50)
        world.start(canary=canary)
        world.quality[2] = quality
        world.deploy(2, 2, canary=canary)
        for _ in range(40):
            world.tick()
        for name in list(world.actors):
            del world.actors[name]
        world.forget()
        world.hear()
        world.generation = world.order.generation = 2
        for _ in range(30):
            world.tick(requests=0)
        assert world.canary.phase == phase
        assert set(world.revisions()) == expected


def test_paused_it_still_fails() -> None:
    canary = rules(25, 50, for_s=600.0)
    world = tried(canary, seconds=8)
    world.order.stored.paused = True
    world.quality[2] = Quality(failing=0.9)
    for _ in range(20):
        world.tick()
    assert (world.canary.phase, world.weight) == (FAILED, 0)


def test_lower_steps_take_effect_on_weights_before_replicas() -> None:
    canary = rules(-50)
    world = tried(canary, seconds=60, replicas=10)
    assert world.weight == 50
    world.deploy(3, 2, replicas=10, canary=rules(-1, -5))
    for _ in range(40):
        world.tick()
        assert world.revisions().count(2) + world.revisions().count(3) >= 10 * world.weight / 100 - 0.01
    assert world.weight == 1


def test_other_rules_are_not_told_as_a_failure() -> None:
    canary = rules(25)
    world = tried(canary, seconds=40, r2=Quality(failing=0.9))
    assert world.canary.phase == FAILED
    world.deploy(3, 2, canary=rules(25, max_error_rate=1.0))
    world.actions()
    assert world.canary.phase == STEPPING
