"""What the words of Ray Serve mean for a replica."""

from __future__ import annotations

import pytest

from serving.serve_deployment.verdict import (
    GONE,
    WAITING,
    EntryPoint,
    Judge,
    Patience,
    Sight,
    Verdict,
    adoptable,
    sight_of,
    told_of,
)

HTTP = (EntryPoint("http", "127.0.0.1", 8000),)
RUNNING = Sight("RUNNING", entry_points=HTTP)
LIMITS = Patience(unhealthy_s=30.0, gone_s=3.0)


def test_it_is_ready_when_it_runs_and_somebody_takes_requests() -> None:
    judge = Judge(LIMITS)
    assert judge.look(Sight("DEPLOYING"), 0.0) == Verdict("loading", "Ray Serve says DEPLOYING")
    assert judge.look(Sight("RUNNING"), 1.0).state == "loading"
    assert judge.look(RUNNING, 2.0) == Verdict("ready")
    assert judge.look(Sight("DEPLOYING"), 3.0) == Verdict("ready")  # Serve changes it while it runs


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "DELETING", GONE])
def test_what_does_not_come_up_has_failed(status: str) -> None:
    assert Judge(LIMITS).look(Sight(status, "no"), 0.0).state == "failed"


def test_serve_that_cannot_be_asked_is_waited_for() -> None:
    judge = Judge(LIMITS)
    assert judge.look(Sight(WAITING, "it starts"), 0.0) == Verdict("loading", "it starts")
    judge.look(RUNNING, 1.0)
    assert judge.look(Sight(WAITING, "it starts"), 100.0) == Verdict("ready")


def test_the_reason_is_that_of_serve() -> None:
    told = Judge(LIMITS).look(Sight("DEPLOY_FAILED", "Front: RuntimeError: no"), 0.0)
    assert told == Verdict("failed", "Ray Serve says DEPLOY_FAILED: Front: RuntimeError: no")


def test_an_unhealthy_one_that_never_ran_is_waited_for() -> None:
    assert Judge(LIMITS).look(Sight("UNHEALTHY", "x"), 0.0) == Verdict("loading", "Ray Serve says UNHEALTHY: x")


@pytest.mark.parametrize(("status", "limit_s"), [("UNHEALTHY", 30.0), ("DEPLOY_FAILED", 30.0), (GONE, 3.0)])
def test_serve_gets_time_to_heal_what_ran(status: str, limit_s: float) -> None:
    judge = Judge(LIMITS)
    judge.look(RUNNING, 0.0)
    assert judge.look(Sight(status), 10.0).state == "ready"
    assert judge.look(Sight(status), 10.0 + limit_s - 0.1).state == "ready"
    assert judge.look(Sight(status), 10.0 + limit_s).state == "unhealthy"
    assert judge.look(RUNNING, 50.0).state == "ready"
    assert judge.look(Sight(status), 60.0).state == "ready"  # counted anew


def test_only_what_we_would_deploy_is_adopted() -> None:
    assert adoptable(Sight("RUNNING", route_prefix="/a"), "/a")
    assert adoptable(Sight("UNHEALTHY", route_prefix="/a"), "/a")
    assert not adoptable(Sight("RUNNING", route_prefix="/b"), "/a")
    assert not adoptable(Sight("DEPLOY_FAILED", route_prefix="/a"), "/a")


def test_messages_name_the_deployments_that_are_not_well() -> None:
    details = {
        "message": "Failed to update.",
        "deployments": {
            "Front": {"status": "DEPLOY_FAILED", "message": "Traceback\n  RuntimeError: no\n"},
            "Scale": {"status": "HEALTHY", "message": "it is well"},
        },
    }
    assert told_of(details) == "Failed to update. Front: Traceback RuntimeError: no"
    long = {"deployments": {"F": {"status": "UNHEALTHY", "message": "a" * 5000 + " the end"}}}
    assert told_of(long).endswith("a the end")
    assert len(told_of(long)) < 1600


def test_a_sight_is_of_one_application() -> None:
    details = {"applications": {"one": {"status": "RUNNING", "route_prefix": "/1", "message": ""}}}
    assert sight_of(details, "one", HTTP) == Sight("RUNNING", "", "/1", HTTP)
    assert sight_of(details, "two").status == GONE
