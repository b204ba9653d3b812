"""`mesh rollout`, `mesh scale` and `mesh split`: what is asked of the mesh, and what is shown."""

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


def test_split(fake: FakeMesh, run: Run) -> None:
    assert run("split", "digits").stdout == (
        "default/digits has no traffic splits and no canaries: requests go by load\n"
    )
    split = fake.apps["digits"].stored.spec.traffic.add(name="ab", model="m", key="user")
    split.sides.add(name="one", deployment="one", weight=3)
    split.sides.add(name="two", deployment="two", weight=1)
    split.matches.add(header="x-side", value="b", side="two")
    split.shadow.deployment, split.shadow.percent = "three", 12.5
    text = run("split", "digits").stdout
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["ab", "m", "one", "3", "75", "%"],
        ["ab", "m", "two", "1", "25", "%"],
    ]
    assert "ab: requests with the same `user` get the same deployment" in text
    assert "ab: `x-side: b` goes to two" in text
    assert "ab: 12.5 % are copied to three" in text
    (shape,) = json.loads(run("split", "digits", "ab", "--json").stdout)["splits"]
    assert [side["percent"] for side in shape["sides"]] == [75.0, 25.0]
    assert shape["shadow"] == {"deployment": "three", "percent": 12.5}
    wrong = run("split", "digits", "other")
    assert (wrong.exit_code, "it has: ab" in wrong.stderr) == (3, True)
    assert run("split", "digits", "ab", "one=1", "two=0").exit_code == 0
    assert fake.asked[-1] == ("split", (AppKey("default", "digits"), "ab", {"one": 1, "two": 0}))
    for weight in ("one", "one=", "=1", "one=x", "one=-1"):
        assert run("split", "digits", "ab", weight).exit_code == 2


def test_a_canary_is_shown_and_promoted(fake: FakeMesh, run: Run) -> None:
    told = fake.apps["digits"].status.deployments[0].canary
    told.phase, told.step, told.steps, told.weight, told.reason = "stepping", 1, 3, 5.0, "40 s are left"
    line = "step 1 of 3, 5 % of the requests: 40 s are left"
    assert f"canary of digits: {line}" in run("rollout", "status", "digits").stdout
    assert f"canary of digits: {line}" in run("split", "digits").stdout
    assert f"  canary: {line}" in run("status", "digits").stdout
    shape = json.loads(run("rollout", "status", "digits", "--json").stdout)["deployments"][0]["canary"]
    assert (shape["phase"], shape["weight"], shape["since"]) == ("stepping", 5.0, None)
    told.phase, told.reason = "failed", "9 of 20 requests failed"
    assert "canary of digits: failed: 9 of 20 requests failed" in run("rollout", "status", "digits").stdout
    key = AppKey("default", "digits")
    assert run("rollout", "promote", "digits").stdout == "the canary of default/digits is promoted\n"
    assert fake.asked[-1] == ("promote", (key, False))
    assert json.loads(run("rollout", "promote", "digits", "--full", "--json").stdout)["changed"] is True
    assert fake.asked[-1] == ("promote", (key, True))
