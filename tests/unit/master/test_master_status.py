"""The derived status: phases, conditions, reasons and their times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from master_world import name_of

from serving._proto import records_pb2 as pb
from serving.master.model import CrashLoop, Goal, Replica, Situation
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.status import derive, same_but_for_time

ORDER = pb.Placement(
    cluster="east",
    generation=1,
    stored=pb.StoredSpec(revision=2, uid="u", spec=pb.ApplicationSpec(namespace="default", name="digits")),
)
GOAL = Goal("digits", 2, 2)
LOOP = CrashLoop(2, 3, 1100.0, "model digits: input 0 has 3 dims, config says 4")


def row(text: str, state: ReplicaState, **more: object) -> Replica:
    name: ReplicaName = name_of(text)
    return replace(Replica(name=name, state=state, since=900.0, present=True), **more)  # type: ignore[arg-type]


def status(
    *rows: Replica,
    goal: Goal = GOAL,
    loop: CrashLoop | None = None,
    previous: pb.ApplicationStatus | None = None,
    stopping: bool = False,
    now: float = 1000.0,
) -> pb.ApplicationStatus:
    loops = {"digits": loop} if loop else {}
    situation = Situation(1, (goal,), rows, loops, stopping=stopping)
    return derive(ORDER, situation, previous, now, store_away_s=0.0)


NEW = [row("digits-r2-0", ReplicaState.READY), row("digits-r2-1", ReplicaState.READY)]
OLD = [row("digits-r1-0", ReplicaState.READY), row("digits-r1-1", ReplicaState.READY)]
COMING = row("digits-r2-0", ReplicaState.STARTING)
LOST = row("digits-r2-1", ReplicaState.STARTING, proven=True, restarts=1)
FAILED = row("digits-r2-0", ReplicaState.FAILED, reason=LOOP.reason)


@pytest.mark.parametrize(
    ("rows", "loop", "phase", "serving"),
    [
        ([], None, pb.STARTING, 0),
        ([COMING], None, pb.STARTING, 0),
        (NEW, None, pb.READY, 2),
        ([*NEW, OLD[0]], None, pb.UPDATING, 2),
        ([NEW[1], COMING], None, pb.STARTING, 2),
        ([NEW[1]], None, pb.STARTING, 2),
        ([*OLD, COMING], None, pb.UPDATING, 1),
        ([OLD[0], COMING], None, pb.UPDATING, 1),
        ([NEW[0], OLD[0], COMING], None, pb.UPDATING, 2),
        ([*OLD, FAILED], LOOP, pb.DEGRADED, 1),
        ([NEW[0], LOST], None, pb.DEGRADED, 2),
        ([FAILED], LOOP, pb.FAILED, 0),
    ],
)
def test_phases(rows: list[Replica], loop: CrashLoop | None, phase: int, serving: int) -> None:
    found = status(*rows, loop=loop)
    assert pb.Phase.Name(found.phase) == pb.Phase.Name(phase)  # type: ignore[arg-type]
    assert found.serving_revision == serving


def test_scaling_out_what_serves_is_an_update() -> None:
    found = status(*OLD, row("digits-r2-2", ReplicaState.STARTING), goal=replace(GOAL, replicas=3, same=frozenset({1})))
    assert pb.Phase.Name(found.phase) == "UPDATING"  # type: ignore[arg-type]


def test_stopping_is_deleting_whatever_runs() -> None:
    assert status(*NEW, stopping=True).phase == pb.DELETING


def test_a_failing_revision_says_why_everywhere_it_is_looked_for() -> None:
    found = status(*OLD, FAILED, loop=LOOP)
    conditions = {condition.type: condition for condition in found.conditions}
    assert not conditions["RevisionServing"].status
    assert conditions["RevisionServing"].reason == "StartFails"
    assert LOOP.reason in conditions["RevisionServing"].message
    assert LOOP.reason in found.message
    assert LOOP.reason in found.deployments[0].reason
    assert found.deployments[0].retry_at.ToSeconds() == 1100
    assert found.deployments[0].ready == 2


def test_replicas_of_an_unchanged_deployment_count_for_the_new_revision() -> None:
    found = status(*OLD, goal=replace(GOAL, same=frozenset({1})))
    assert found.phase == pb.READY
    assert found.serving_revision == 2


def test_conditions_keep_the_time_at_which_they_changed() -> None:
    first = status(COMING, now=1000.0)
    second = status(*NEW, previous=first, now=2000.0)
    third = status(*NEW, previous=second, now=3000.0)
    since = [
        {condition.type: condition.since.ToSeconds() for condition in found.conditions}
        for found in (first, second, third)
    ]
    assert since[0]["ReplicasReady"] == 1000
    assert since[1]["ReplicasReady"] == 2000
    assert since[2] == since[1]
    assert since[2]["Placed"] == 1000
    assert same_but_for_time(second, third)
    assert not same_but_for_time(first, second)


def test_what_waits_is_named_in_the_message() -> None:
    waiting = row("digits-r2-0", ReplicaState.PENDING, reason="waits until its cluster has 4 GPU free")
    assert "digits-r2-0: waits until its cluster has 4 GPU free" in status(waiting).message
