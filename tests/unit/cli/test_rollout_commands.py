"""`mesh rollout` and `mesh scale`: what is asked of the mesh, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable

from cli_fakes import FakeMesh
from click.testing import Result

from serving.store.keys import AppKey

Run = Callable[..., Result]


def test_rollout(fake: FakeMesh, run: Run) -> None:
    deployment = fake.apps["digits"].status.deployments[0]
    deployment.wanted, deployment.ready, deployment.old_ready = 4, 4, 3
    shown = run("rollout", "status", "digits").stdout.splitlines()
    assert shown[0].startswith("default/digits  ")
    assert shown[2].split()[:4] == ["digits", "4", "1", "3"]
    assert run("rollout", "pause", "digits").stdout == "the rollout of default/digits is paused\n"
    assert run("rollout", "pause", "digits").stdout == "the rollout of default/digits is paused already\n"
    assert run("rollout", "status", "digits").stdout.splitlines()[0].endswith(", paused")
    shape = json.loads(run("rollout", "status", "digits", "--json").stdout)
    assert (shape["paused"], shape["deployments"][0]["new"], shape["deployments"][0]["old"]) == (True, 1, 3)
    assert json.loads(run("rollout", "resume", "digits", "--json").stdout)["changed"] is True
    assert run("rollout", "pause", "nothing").exit_code == 3
    key = AppKey("default", "digits")
    run("rollout", "undo", "digits", "--no-wait")
    assert fake.asked[-1] == ("rollback", (key, 0, False))
    run("rollout", "undo", "digits", "--to", "1")
    assert fake.asked[-1] == ("rollback", (key, 1, True))


def test_scale(fake: FakeMesh, run: Run) -> None:
    key = AppKey("default", "digits")
    assert run("scale", "digits/net", "--replicas", "3", "--no-wait").stdout == "default/digits revision 3 stored\n"
    assert fake.asked[-1] == ("scale", (key, "net", 3, 3))
    run("scale", "digits/net", "--max", "5")
    assert fake.asked[-1] == ("scale", (key, "net", None, 5))
    for wrong in (
        ("digits",),
        ("digits/", "--min", "1"),
        ("digits/net",),
        ("digits/net", "--replicas", "1", "--min", "2"),
    ):
        assert run("scale", *wrong).exit_code == 2


def test_the_last_decision_is_shown_with_its_reason(fake: FakeMesh, run: Run) -> None:
    made = fake.apps["digits"].status.deployments[0].scaling.add(before=2, after=5, reason="40 requests run or wait")
    made.at.GetCurrentTime()
    assert "  scaled 2 → 5 " in run("status", "digits").stdout
    (shape,) = json.loads(run("status", "digits", "--json").stdout)["deployments"][0]["scaling"]
    assert (shape["before"], shape["after"], shape["reason"]) == (2, 5, "40 requests run or wait")
