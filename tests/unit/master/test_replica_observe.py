"""From facts to a replica's row: each state, its reason, and what can never follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from master_world import name_of

from serving.master.model import ActorRow, ActorState, Facts, Health, Replica, Report
from serving.master.phases import REPLICA_TRANSITIONS, ReplicaState
from serving.master.replica import ReplicaLimits, forgettable, observe

NAME = name_of("digits-r1-0")
LIMITS = ReplicaLimits(start_timeout_s=60.0, stable_s=10.0, max_early_ends=3)
ALIVE = ActorRow(str(NAME), "a", ActorState.ALIVE, pid=7, node="n")
READY = Facts(ALIVE, Report(7, "ready", address="127.0.0.1:1", registered=True))


def see(facts: Facts, before: Replica | None = None, now: float = 0.0) -> Replica:
    return observe(NAME, before, facts, LIMITS, now)


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        (
            Facts(ActorRow(str(NAME), "a", ActorState.PENDING, required={"CPU": 4.0, "GPU": 1.0})),
            ReplicaState.PENDING,
            "waits until its cluster has 4 CPU, 1 GPU free",
        ),
        (Facts(ALIVE), ReplicaState.STARTING, "its process starts"),
        (Facts(ALIVE, Report(7, "loading")), ReplicaState.STARTING, "loading"),
        (Facts(ALIVE, Report(7, "loading", "pulls it")), ReplicaState.STARTING, "loading: pulls it"),
        (Facts(ALIVE, Report(6, "ready", registered=True)), ReplicaState.STARTING, "its process starts"),
        (Facts(ALIVE, Report(7, "ready")), ReplicaState.STARTING, "ready, not in discovery yet"),
        (READY, ReplicaState.READY, ""),
        (Facts(ALIVE, Report(7, "failed", "model digits: 3 dims")), ReplicaState.FAILED, "model digits: 3 dims"),
        (Facts(ALIVE, Report(7, "draining")), ReplicaState.DRAINING, "finishes its running requests"),
        (Facts(ALIVE, Report(7, "drained")), ReplicaState.STOPPED, "drained"),
        (Facts(replace(ALIVE, state=ActorState.RESTARTING)), ReplicaState.STARTING, "started again by Ray"),
        (Facts(replace(ALIVE, state=ActorState.DEAD, death="no such library")), ReplicaState.FAILED, "no such library"),
        (Facts(None), ReplicaState.FAILED, "its actor is gone from Ray"),
    ],
)
def test_each_fact_has_its_state_and_reason(facts: Facts, state: ReplicaState, reason: str) -> None:
    seen = see(facts)
    assert seen.state is state
    assert seen.reason.startswith(reason)


def test_a_process_that_hangs_is_unhealthy_and_a_stranger_says_nothing() -> None:
    ready = see(READY)
    assert see(replace(READY, health=Health(7, hung=True)), ready).state is ReplicaState.UNHEALTHY
    sick = see(replace(READY, report=replace(READY.report, state="unhealthy", reason="no GPU")), ready)
    assert (sick.state, sick.reason) == (ReplicaState.UNHEALTHY, "no GPU")
    assert see(replace(READY, health=Health(6, hung=True, gone=True)), ready).state is ReplicaState.READY
    assert not see(replace(READY, health=Health(6, gone=True)), ready).process_gone
    assert see(replace(READY, health=Health(7, gone=True)), ready).process_gone


def test_a_ready_replica_stays_ready_while_etcd_is_away() -> None:
    ready = see(READY)
    without = Facts(ALIVE, Report(7, "ready", registered=False))
    assert see(without, ready, now=100.0).state is ReplicaState.READY
    restarted = Facts(replace(ALIVE, pid=8, restarts=1), Report(8, "ready", registered=False))
    assert see(restarted, ready, now=100.0).state is ReplicaState.STARTING


def test_a_start_has_a_time_limit_that_waiting_for_etcd_or_resources_does_not_use_up() -> None:
    starting = see(Facts(ALIVE, Report(7, "loading")), now=0.0)
    assert see(Facts(ALIVE, Report(7, "loading")), starting, now=59.0).state is ReplicaState.STARTING
    failed = see(Facts(ALIVE, Report(7, "loading")), starting, now=61.0)
    assert failed.state is ReplicaState.FAILED
    assert failed.reason == "not ready 60 s after its start, its last step: loading"
    unregistered = Facts(ALIVE, Report(7, "ready"))
    assert see(unregistered, see(unregistered), now=1000.0).state is ReplicaState.STARTING
    pending = Facts(ActorRow(str(NAME), "a", ActorState.PENDING))
    waited = see(Facts(ALIVE), see(pending), now=1000.0)
    assert waited.state is ReplicaState.STARTING
    assert waited.starting_since == 1000.0


def test_a_process_that_ends_again_and_again_before_it_is_ready_has_failed() -> None:
    row = see(Facts(ALIVE))
    for restarts in (1, 2):
        row = see(Facts(replace(ALIVE, pid=7 + restarts, restarts=restarts)), row, now=float(restarts))
        assert row.state is ReplicaState.STARTING
    row = see(Facts(replace(ALIVE, pid=10, restarts=3)), row, now=3.0)
    assert row.state is ReplicaState.FAILED
    assert "ended 3 times" in row.reason
    assert see(Facts(None), row, now=4.0).reason == row.reason, "the first reason of an end is the true one"


def test_a_process_that_was_ready_for_long_starts_with_a_clean_record() -> None:
    row = see(READY)
    for restarts in range(1, 10):
        now = restarts * 100.0
        row = see(Facts(replace(ALIVE, state=ActorState.RESTARTING, restarts=restarts)), row, now)
        pid = 7 + restarts
        row = see(
            Facts(replace(ALIVE, pid=pid, restarts=restarts), Report(pid, "ready", registered=True)), row, now + 1.0
        )
        assert row.state is ReplicaState.READY
        assert row.early_ends == 0


def test_a_drained_replica_that_ray_restarts_does_not_come_back() -> None:
    draining = see(Facts(ALIVE, Report(7, "draining")), see(READY))
    assert draining.retired
    again = see(Facts(replace(ALIVE, pid=8, restarts=1), Report(8, "ready", registered=True)), draining)
    assert again.state is ReplicaState.STOPPED
    assert again.present
    assert forgettable(see(Facts(None), again))


REPORTS = st.sampled_from(["preparing", "loading", "ready", "draining", "drained", "failed"])
FACTS = st.builds(
    Facts,
    st.none()
    | st.builds(
        ActorRow,
        st.just(str(NAME)),
        st.just("a"),
        st.sampled_from(ActorState),
        pid=st.integers(0, 3),
        restarts=st.integers(0, 3),
    ),
    st.none() | st.builds(Report, st.integers(0, 3), REPORTS, registered=st.booleans()),
    st.none() | st.builds(Health, st.integers(0, 3), hung=st.booleans(), gone=st.booleans()),
)


@given(st.lists(FACTS, max_size=12))
def test_no_step_leaves_the_table_and_looking_twice_changes_nothing(history: list[Facts]) -> None:
    row: Replica | None = None
    for number, facts in enumerate(history):
        after = see(facts, row, float(number))
        if row is not None and after.state is not row.state:
            assert after.state in REPLICA_TRANSITIONS[row.state]
        assert see(facts, after, float(number)) == after
        row = after
