"""The agent's decisions: which masters start and end, and what a store that lost something can never do."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.cluster_agent.judge import must_end
from serving.cluster_agent.model import (
    AskOrder,
    EndMaster,
    Judge,
    Master,
    Placed,
    RestorePlacement,
    Situation,
    StartMaster,
)
from serving.cluster_agent.plan import plan
from serving.master.model import ActorRow, ActorState
from serving.master.names import MasterName
from serving.store.keys import AppKey

APP = AppKey("default", "digits")


def order(
    generation: int = 1, revision: int = 1, *, uid: str = "u", created: int = 100, cluster: str = "east"
) -> pb.Placement:
    spec = pb.ApplicationSpec(namespace=APP.namespace, name=APP.name)
    stored = pb.StoredSpec(spec=spec, revision=revision, uid=uid)
    stored.created_at.FromSeconds(created)
    return pb.Placement(cluster=cluster, generation=generation, stored=stored)


def master(work: pb.Placement | None, *, generation: int = 1, ending: bool = False) -> Master:
    name = MasterName(APP, work.generation if work is not None else generation)
    return Master(name, ActorRow(str(name), "a", ActorState.ALIVE), work, ending)


def situation(placed: pb.Placement | None, *masters: Master, fresh: bool = True) -> Situation:
    return Situation({APP: Placed(placed, 5)} if placed is not None else {}, masters, fresh)


def test_a_placement_starts_its_master_once() -> None:
    assert plan(situation(order())) == (StartMaster(order()),)
    assert plan(situation(order(), master(order()))) == ()


def test_a_master_is_asked_before_anything_is_decided_about_it() -> None:
    unknown = master(None)
    assert plan(situation(None, unknown)) == (AskOrder(unknown.name),)
    assert plan(situation(order(2), unknown)) == (AskOrder(unknown.name),)


def test_a_missing_placement_ends_nothing_and_is_looked_into_only_with_a_fresh_view() -> None:
    running = master(order())
    assert plan(situation(None, running)) == (Judge(running.name, order()),)
    assert plan(situation(None, running, fresh=False)) == ()


def test_a_later_generation_here_takes_over() -> None:
    old = master(order(1))
    actions = plan(situation(order(3), old))
    assert actions[1] == StartMaster(order(3))
    assert isinstance(actions[0], EndMaster)
    anew = plan(situation(order(3, uid="v", created=200), old))
    assert isinstance(anew[0], EndMaster)


def test_an_older_work_order_is_overwritten_and_not_followed() -> None:
    assert plan(situation(order(1, 1), master(order(1, 4)))) == (RestorePlacement(order(1, 4), 5),)
    assert plan(situation(order(1), master(order(2)))) == (RestorePlacement(order(2), 5),)


def test_an_end_that_was_begun_goes_on() -> None:
    ending = master(order(), ending=True)
    assert plan(situation(None, ending)) == (EndMaster(ending.name, "as decided before"),)
    assert isinstance(plan(situation(None, ending, fresh=False))[0], EndMaster)


def stored(uid: str = "u", *, deleting: bool = False, created: int = 100) -> pb.StoredSpec:
    spec = pb.StoredSpec(uid=uid, deleting=deleting)
    spec.created_at.FromSeconds(created)
    return spec


def decision(generation: int, cluster: str = "east", uid: str = "u") -> pb.Decision:
    return pb.Decision(uid=uid, generation=generation, cluster=cluster)


@pytest.mark.parametrize(
    ("spec", "decided", "tombstone", "ends"),
    [
        (None, None, False, False),
        (None, None, True, True),
        (stored(), None, False, False),
        (stored(deleting=True), None, False, True),
        (stored(deleting=True, uid="other"), None, False, False),
        (stored(), decision(2), False, False),
        (stored(), decision(2, cluster="west"), False, True),
        (stored(), decision(3), False, True),
        (stored(), decision(1, cluster="west"), False, False),
        (stored(), decision(3, uid="other"), False, False),
        (stored(uid="other", created=200), None, False, True),
        (stored(uid="other", created=50), None, False, False),
    ],
)
def test_only_a_record_ends_a_master(
    spec: pb.StoredSpec | None, decided: pb.Decision | None, tombstone: bool, ends: bool
) -> None:
    assert bool(must_end(order(2), spec, decided, tombstone=tombstone)) is ends


ORDERS = st.builds(order, st.integers(1, 3), st.integers(1, 3), uid=st.sampled_from("uv"), created=st.integers(1, 3))


@given(st.none() | ORDERS, st.lists(ORDERS, max_size=3), st.booleans())
def test_no_plan_ends_a_master_for_what_is_missing_or_older(
    placed: pb.Placement | None, running: list[pb.Placement], fresh: bool
) -> None:
    masters = {work.generation: master(work) for work in running}
    actions = plan(situation(placed, *masters.values(), fresh=fresh))
    for action in actions:
        if isinstance(action, EndMaster):
            assert placed is not None
            assert placed.generation > action.name.generation
        if isinstance(action, StartMaster):
            assert action.order.generation not in masters
    kinds = [action for action in actions if isinstance(action, (StartMaster, RestorePlacement))]
    assert len(kinds) <= 1
    assert all(one != other for one, other in itertools.combinations(actions, 2))
