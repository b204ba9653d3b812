"""Properties of the plan: whatever happens and whenever the master dies, replicas are never too many nor too few."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from master_world import World

from serving.master.model import CreateReplica, DrainReplica, Goal, KillReplica

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
        assert all(name.revision == wanted.revision or name.revision in wanted.same for name in serving)


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
