"""Properties of the plan: whatever happens and whenever the master dies, replicas are never too many nor too few."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from master_world import World

from serving.master.model import CreateReplica, DrainReplica, Goal, KillReplica, UpdateReplica

DEPLOYMENT = "digits"


def goal(replicas: int, revision: int, same: frozenset[int] = frozenset()) -> Goal:
    return Goal(DEPLOYMENT, replicas, revision, same=same, drain_timeout_s=10.0)


class MasterMachine(RuleBasedStateMachine):
    """Acts one action at a time; between any two the master may be forgotten, replicas may die, hang or go on."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(())

    @initialize(replicas=st.integers(1, 4))
    def begin(self, replicas: int) -> None:
        self.world.goals = (goal(replicas, 1),)
        self.most = replicas + 1
        self.bad: set[int] = set()

    @rule(count=st.integers(1, 20))
    def master_acts(self, count: int) -> None:
        """Takes some of the planned actions, one by one; what was planned and not done is planned again."""
        for action in self.world.actions()[:count]:
            self._check_before(action)
            self.world.apply_one(action)

    def _check_before(self, action: object) -> None:
        world, wanted = self.world, self.world.goals[0]
        serving = world.serving(DEPLOYMENT)
        if isinstance(action, CreateReplica):
            assert action.name.revision == wanted.revision
            assert len(world.living(DEPLOYMENT)) <= max(self.most, wanted.replicas), "more than one surplus replica"
        if isinstance(action, DrainReplica) or (isinstance(action, KillReplica) and action.name in serving):
            left = [name for name in serving if name != action.name]
            assert left, f"{action} takes the last serving replica"

    @rule()
    def master_is_killed(self) -> None:
        self.world.forget()

    @rule()
    def replicas_answer(self) -> None:
        self.world.hear()

    @precondition(lambda self: len(self.world.serving(DEPLOYMENT)) > 1)
    @rule(data=st.data())
    def one_hangs(self, data: st.DataObject) -> None:
        process = self.world.actors[data.draw(st.sampled_from(sorted(self.world.serving(DEPLOYMENT))))].process
        assert process is not None
        process.hung = True

    @rule()
    def time_passes(self) -> None:
        self.world.now += 5.0

    @rule()
    def replicas_go_on(self) -> None:
        self.world.everything_goes_on()

    @precondition(lambda self: self.world.actors)
    @rule(data=st.data())
    def one_goes_on(self, data: st.DataObject) -> None:
        self.world.progress(data.draw(st.sampled_from(sorted(self.world.actors))))

    @precondition(lambda self: len(self.world.serving(DEPLOYMENT)) > 1)
    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        self.world.die(data.draw(st.sampled_from(sorted(self.world.serving(DEPLOYMENT)))))

    @rule(replicas=st.integers(1, 4), fails=st.booleans())
    def new_revision(self, replicas: int, fails: bool) -> None:
        revision = self.world.goals[0].revision + 1
        if fails:
            self.bad.add(revision)
            self.world.bad = frozenset(self.bad)
        living = len(self.world.living(DEPLOYMENT))
        self.most = max(replicas + 1, living)
        self.world.goals = (goal(replicas, revision),)

    @rule(replicas=st.integers(1, 4))
    def only_the_number_changes(self, replicas: int) -> None:
        old = self.world.goals[0]
        if old.revision in self.bad:
            return
        self.most = max(replicas + 1, len(self.world.living(DEPLOYMENT)))
        self.world.goals = (goal(replicas, old.revision + 1, old.same | {old.revision}),)

    @rule(replicas=st.integers(1, 4), fails=st.booleans())
    def new_models(self, replicas: int, fails: bool) -> None:
        """A revision that every running replica can be brought to by loading other models."""
        old = self.world.goals[0]
        if fails:
            self.bad.add(old.revision + 1)
            self.world.bad = frozenset(self.bad)
        self.most = max(replicas + 1, len(self.world.living(DEPLOYMENT)))
        earlier = old.same | old.updatable | {old.revision}
        self.world.goals = (replace(goal(replicas, old.revision + 1), updatable=earlier),)

    @invariant()
    def never_too_many(self) -> None:
        if self.world.goals:
            living = len(self.world.living(DEPLOYMENT))
            self.most = max(self.world.goals[0].replicas + 1, min(self.most, living))
            assert living <= self.most

    def teardown(self) -> None:
        """Left alone it converges: the wanted number, of the wanted revision, or the newest that works."""
        if not self.world.goals:
            return
        wanted = self.world.goals[0]
        before = len(self.world.serving(DEPLOYMENT))
        self.world.settle()
        serving = self.world.serving(DEPLOYMENT)
        if wanted.revision in self.bad:
            assert not before or serving, "a revision that cannot start cost the last replica"
            return
        assert len(serving) == wanted.replicas
        assert len(self.world.living(DEPLOYMENT)) == wanted.replicas
        served = self.world.serves(DEPLOYMENT)
        assert all(revision == wanted.revision or revision in wanted.same for revision in served)


TestMasterMachine = MasterMachine.TestCase
TestMasterMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(replicas=st.integers(1, 5), kill_at=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_master_killed_between_any_two_actions_of_a_rollout_converges(replicas: int, kill_at: int) -> None:
    world = World((goal(replicas, 1),))
    world.settle()
    world.goals = (goal(replicas, 2),)
    done = 0
    for _ in range(100):
        for action in world.actions():
            if done == kill_at:
                world.forget()
                assert not any(isinstance(one, DrainReplica | KillReplica) for one in world.actions())
                world.hear()
                done += 1
                break
            world.apply_one(action)
            done += 1
            assert len(world.serving(DEPLOYMENT)) >= 1
            assert len(world.living(DEPLOYMENT)) <= replicas + 1
        world.everything_goes_on()
        world.now += 1.0
    world.settle()
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [2] * replicas
    assert world.actions() == ()


@given(replicas=st.integers(1, 4), forget=st.booleans())
@settings(max_examples=20, deadline=None)
def test_stopping_drains_everything_and_then_finishes(replicas: int, forget: bool) -> None:
    world = World((goal(replicas, 1),))
    world.settle()
    world.stopping = True
    if forget:
        world.forget()
        assert not world.actions(), "a replica that has not spoken yet may serve: it is drained, not killed"
    world.settle(rounds=20)
    assert world.finished
    assert not world.actors


@given(replicas=st.integers(1, 6), seed=st.randoms())
@settings(max_examples=60, deadline=None)
def test_new_models_are_loaded_by_the_replicas_that_run(replicas: int, seed: Random) -> None:
    """First by one, then by a quarter at a time; none is created, drained or killed, and all serve all the time."""
    world = World((goal(replicas, 1),))
    world.settle()
    before = set(world.serving(DEPLOYMENT))
    world.goals = (replace(goal(replicas, 2), updatable=frozenset({1})),)
    for _ in range(200):
        actions = world.actions()
        assert all(isinstance(action, UpdateReplica) for action in actions)
        world.apply(actions)
        assert set(world.serving(DEPLOYMENT)) == before
        updating = [actor for actor in world.actors.values() if actor.process is not None and actor.process.updating_to]
        done = world.serves(DEPLOYMENT).count(2)
        assert len(updating) <= (max(1, replicas // 4) if done else 1)
        if done == replicas:
            break
        world.progress(seed.choice(sorted(world.actors)))
        world.now += 0.1
    world.settle()
    assert world.serves(DEPLOYMENT) == [2] * replicas
    assert set(world.serving(DEPLOYMENT)) == before


def test_models_that_cannot_be_loaded_leave_all_replicas_as_they_are() -> None:
    world = World((goal(3, 1),), bad=frozenset({2}))
    world.settle()
    world.goals = (replace(goal(3, 2), updatable=frozenset({1})),)
    tries = []
    for _ in range(300):
        actions = world.actions()
        assert all(isinstance(action, UpdateReplica) for action in actions)
        tries += [world.now] * len(actions)
        world.apply(actions)
        world.everything_goes_on()
        world.now += 1.0
    assert world.serves(DEPLOYMENT) == [1, 1, 1]
    assert 3 < len(tries) < 15, "tried again, with growing pauses"
    assert world.loops[DEPLOYMENT].reason == "bad model"
    world.goals = (replace(goal(3, 3), updatable=frozenset({1, 2})),)
    world.settle()
    assert world.serves(DEPLOYMENT) == [3, 3, 3]
    assert world.loops == {}


def test_a_process_started_again_gets_the_models_of_today() -> None:
    world = World((goal(2, 1),))
    world.settle()
    world.goals = (replace(goal(2, 2), updatable=frozenset({1})),)
    world.settle()
    victim = world.serving(DEPLOYMENT)[0]
    world.die(victim)
    world.settle()
    assert world.serves(DEPLOYMENT) == [2, 2]
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [1, 1], "no replica was replaced"


def test_models_that_end_the_process_cost_one_restart_and_no_old_replica() -> None:
    world = World((goal(3, 1),), deadly=frozenset({2}))
    world.settle()
    before = set(world.serving(DEPLOYMENT))
    world.goals = (replace(goal(3, 2), updatable=frozenset({1})),)
    for _ in range(400):
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
        assert len(world.serving(DEPLOYMENT)) >= 2
    assert before <= set(world.living(DEPLOYMENT)), "those of revision 1 are there"
    assert world.serves(DEPLOYMENT) == [1, 1, 1]
    assert sum(world.actors[name].restarts for name in before) == 1
    assert world.loops[DEPLOYMENT].failures > 1, "new replicas try it, with growing pauses"
    world.goals = (replace(goal(3, 3), updatable=frozenset({1, 2})),)
    world.settle()
    assert world.serves(DEPLOYMENT) == [3, 3, 3]


def test_models_that_never_load_are_given_up_and_the_replica_is_replaced() -> None:
    world = World((goal(2, 1),), endless=frozenset({2}))
    world.settle()
    world.goals = (replace(goal(2, 2), updatable=frozenset({1})),)
    world.settle(rounds=100)
    assert world.serves(DEPLOYMENT) == [1, 1]
    assert "not loaded within 60 s" in world.loops[DEPLOYMENT].reason
    world.goals = (replace(goal(2, 3), updatable=frozenset({1})),)
    world.settle()
    assert world.serves(DEPLOYMENT) == [3, 3]


def test_a_replica_that_loads_for_ever_is_ended_with_its_application() -> None:
    world = World((goal(2, 1),), endless=frozenset({2}))
    world.settle()
    world.goals = (replace(goal(2, 2), updatable=frozenset({1})),)
    for _ in range(5):
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    world.stopping = True
    world.settle()
    assert world.finished


def test_a_rollback_while_the_models_load_is_not_done_before_they_are_back() -> None:
    world = World((goal(1, 1),))
    world.settle()
    world.goals = (replace(goal(1, 2), updatable=frozenset({1})),)
    world.apply(world.actions())
    world.look()
    back = replace(goal(1, 3), same=frozenset({1}), updatable=frozenset({2}))
    world.goals = (back,)
    (row,) = world.look().replicas
    assert (row.revision, row.updating_to) == (1, 2)
    assert back.is_current(row)
    assert not back.settled(row), "it will serve revision 2 in a moment"
    world.settle()
    assert world.serves(DEPLOYMENT) == [3]


def test_processes_that_start_together_all_get_the_models_of_today() -> None:
    world = World((goal(3, 1),))
    world.settle()
    world.goals = (replace(goal(3, 2), updatable=frozenset({1})),)
    world.settle()
    for name in world.serving(DEPLOYMENT):
        world.die(name)
    for _ in range(50):
        world.apply(world.actions())
        world.everything_goes_on()
        world.now += 1.0
    assert world.serves(DEPLOYMENT) == [2, 2, 2]
    assert sorted(name.revision for name in world.serving(DEPLOYMENT)) == [1, 1, 1]
