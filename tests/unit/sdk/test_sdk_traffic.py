"""Traffic splits and canaries in specs: what is read, what is stored, what is refused and in which words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from serving.errors import SpecError
from serving.sdk import (
    Application,
    Canary,
    CanaryChecks,
    CanaryStep,
    Match,
    ProxyDeployment,
    PythonDeployment,
    Rollout,
    Shadow,
    TrafficSplit,
    TritonDeployment,
    parse_spec,
)

A, B, C = (PythonDeployment(name, entry="rank:Ranker") for name in ("rank-a", "rank-b", "rank-c"))
EDGE = ProxyDeployment("edge")
SPLIT = TrafficSplit({"rank-a": 90, "rank-b": 10}, model="rank")
CANARY = Canary((CanaryStep(5, "1m"), CanaryStep(50)))

YAML = """
name: shop
deployments:
  - name: rank-a
    python: {entry: "rank:Ranker"}
    rollout:
      canary:
        steps: [{weight: 5, duration: 1m}, {weight: 50}]
        key: user
        match: [{header: x-canary, value: "true"}]
        checks: {max_error_rate: 0.01, max_p99: 200ms, max_p99_ratio: 1.5, min_requests: 100}
  - {name: rank-b, python: {entry: "rank:Ranker"}}
  - {name: rank-c, python: {entry: "rank:Ranker"}}
traffic:
  - model: rank
    split: {rank-a: 90, rank-b: 10}
    key: user
    match: [{header: x-side, value: b, to: rank-b}]
    shadow: {to: rank-c, percent: 12.5}
"""


def test_yaml_and_objects_mean_the_same() -> None:
    canary = Canary(
        (CanaryStep(5, 60.0), CanaryStep(50)), "user", (Match("x-canary", "true"),), CanaryChecks(0.01, 0.2, 1.5, 100)
    )
    split = TrafficSplit(
        {"rank-a": 90, "rank-b": 10}, "rank", "", "user", (Match("x-side", "b", "rank-b"),), Shadow("rank-c", 12.5)
    )
    first = dataclasses.replace(A, rollout=Rollout(canary=canary))
    written = Application("shop", (first, B, C), traffic=(split,))
    read = parse_spec(YAML)
    assert read.to_spec() == written.to_spec()
    assert read.traffic == (split,)
    spec = written.to_spec()
    assert (spec.traffic[0].name, spec.traffic[0].shadow.percent) == ("rank", 12.5)
    assert [(side.name, side.deployment, side.weight) for side in spec.traffic[0].sides] == [
        ("rank-a", "rank-a", 90),
        ("rank-b", "rank-b", 10),
    ]
    steps = spec.deployments[0].rollout.canary.steps
    assert [(step.weight, step.for_s, step.manual) for step in steps] == [(5, 60, False), (50, 0, True)]
    assert spec.deployments[0].rollout.canary.checks.max_error_rate == 0.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": {"rank-a": 1, "rank-x": 1}}, "traffic[0].split: `rank-x` is not a deployment of this application"),
        ({"split": {"edge": 1}}, "traffic[0].split: `edge` is not a deployment of this application that computes"),
        ({"split": {"rank-a": 0}}, "traffic[0].split: gives no deployment a weight above 0"),
        ({"split": {"rank-a": -1, "rank-b": 1}}, "traffic[0].split.rank-a: -1 is out of range"),
        ({"name": "canary-rank"}, "traffic[0].name: `canary-rank` begins with `canary-`"),
        ({"name": "a b"}, "traffic[0].name: `a b` is not a valid name"),
        ({"key": "User"}, "traffic[0].key: `User` is not a name of metadata with text"),
        ({"key": "user-bin"}, "traffic[0].key: `user-bin` is not a name of metadata with text"),
        ({"match": (Match("", "b", "rank-b"),)}, "traffic[0].match[0].header: `` is not a name of metadata"),
        ({"match": (Match("x", "", "rank-b"),)}, "traffic[0].match[0].value: `` is not a text"),
        ({"match": (Match("x", "b", "rank-c"),)}, "traffic[0].match[0].to: `rank-c` is not in split"),
        ({"shadow": Shadow("rank-a")}, "traffic[0].shadow.to: `rank-a` gets requests of this split already"),
        ({"shadow": Shadow("rank-x")}, "traffic[0].shadow.to: `rank-x` is not a deployment"),
        ({"shadow": Shadow("rank-c", 0)}, "traffic[0].shadow.percent: 0 is out of range"),
        ({"shadow": Shadow("rank-c", 100.5)}, "traffic[0].shadow.percent: 100.5 is out of range"),
    ],
)
def test_wrong_splits(changes: dict[str, Any], says: str) -> None:
    app = Application("shop", (A, B, C, EDGE), traffic=(dataclasses.replace(SPLIT, **changes),))
    with pytest.raises(SpecError) as error:
        app.to_spec()
    assert says in str(error.value)


def test_splits_that_contradict_each_other() -> None:
    again = dataclasses.replace(SPLIT, name="other")
    with pytest.raises(SpecError, match=r"traffic\[1\].model: another split is about the model `rank` already"):
        Application("shop", (A, B), traffic=(SPLIT, again)).to_spec()
    with pytest.raises(SpecError, match=r"traffic\[1\].model: a split about any model must be the only one"):
        Application("shop", (A, B), traffic=(SPLIT, dataclasses.replace(again, model=""))).to_spec()
    with pytest.raises(SpecError, match=r"traffic\[1\].name: `rank` is the name of another split already"):
        Application("shop", (A, B), traffic=(SPLIT, dataclasses.replace(SPLIT, name="rank", model="m"))).to_spec()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": ()}, "canary.steps: has 0 entries, 1 to 20 are allowed"),
        ({"steps": (CanaryStep(0),)}, "canary.steps[0].weight: 0 is out of range"),
        ({"steps": (CanaryStep(100),)}, "canary.steps[0].weight: 100 is out of range"),
        ({"steps": (CanaryStep(50), CanaryStep(50))}, "canary.steps[1].weight: 50 is not more than in the step before"),
        ({"steps": (CanaryStep(5, "25h"),)}, "canary.steps[0].duration: 90000 is out of range"),
        ({"match": (Match("x", "1", "rank-a"),)}, "canary.match[0].to: has no meaning here"),
        ({"checks": CanaryChecks(max_error_rate=1.5)}, "canary.checks.max_error_rate: 1.5 is out of range"),
        ({"checks": CanaryChecks(min_requests=-1)}, "canary.checks.min_requests: -1 is out of range"),
    ],
)
def test_wrong_canaries(changes: dict[str, Any], says: str) -> None:
    wrong = dataclasses.replace(A, rollout=Rollout(canary=dataclasses.replace(CANARY, **changes)))
    with pytest.raises(SpecError) as error:
        Application("shop", (wrong,)).to_spec()
    assert says in str(error.value)


def test_canaries_where_there_can_be_none() -> None:
    rollout = Rollout(canary=CANARY)
    with pytest.raises(SpecError, match="is not supported for proxies"):
        Application("shop", (A, ProxyDeployment("edge", rollout=rollout))).to_spec()
    triton = TritonDeployment("digits", "models", update="in_place", rollout=rollout)
    with pytest.raises(SpecError, match="cannot be combined with `update: in_place`"):
        Application("shop", (triton,)).to_spec()
    tight = dataclasses.replace(A, rollout=Rollout(max_surge=0, max_unavailable=1, canary=CANARY))
    with pytest.raises(SpecError, match="needs `max_surge` above 0"):
        Application("shop", (tight,)).to_spec()
