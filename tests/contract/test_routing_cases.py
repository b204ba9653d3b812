"""The choices of `serving.routing` and the client's verdicts, by the cases that `cpp_ext/tests/routing` runs, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from serving._proto import records_pb2 as pb
from serving.discovery.client_verdict import Fault, Next, judge, was_never_sent
from serving.errors import Code, SpecError
from serving.routing import (
    LatencyTracker,
    LeastLatency,
    OutlierConfig,
    OutlierDetector,
    PowerOfTwo,
    RendezvousMember,
    RetryBudget,
    RetryBudgetConfig,
    RoutingPolicy,
    Traffic,
    better,
    rendezvous_best,
    rendezvous_order,
    stable_hash,
)

CASES = {path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "routing").glob("*.json")}


def cases(file: str, key: str = "cases") -> Any:
    """Parametrizes a test with the cases of a list in a file."""
    found = CASES[file][key]
    assert found
    return pytest.mark.parametrize(
        "case", found, ids=[str(case.get("name", index)) for index, case in enumerate(found)]
    )


@dataclass(eq=False)
class Fake:
    index: int
    in_flight: float
    weight: int
    latency: float

    def latency_s(self, _now: float) -> float:
        return self.latency


def fakes(case: dict[str, Any]) -> list[Fake]:
    return [Fake(index, *load) for index, load in enumerate(case["loads"])]


def picks(choice: Any, case: dict[str, Any]) -> list[int | None]:
    if "allowed" in case:
        chosen = [choice.pick_among(lambda one: one.index in case["allowed"], 0.0) for _ in case["picks"]]
    else:
        chosen = [choice.pick(0.0) for _ in case["picks"]]
    return [None if one is None else one.index for one in chosen]


@pytest.mark.parametrize("name", ["power_of_two", "least_latency"])
def test_every_random_number_is_less_than_one(name: str) -> None:
    assert all(0 <= number < 1 for case in CASES[name]["picks"] for number in case["random"])


@cases("power_of_two", "better")
def test_better(case: dict[str, Any]) -> None:
    first, second = Fake(0, *case["first"]), Fake(1, *case["second"])
    assert (better(first, second, 0.0) is second) == case["second_is_better"]


@cases("power_of_two", "picks")
def test_power_of_two(case: dict[str, Any]) -> None:
    numbers = iter(case["random"])
    assert picks(PowerOfTwo(fakes(case), lambda: next(numbers)), case) == case["picks"]
    assert list(numbers) == []


@cases("least_latency", "picks")
def test_least_latency(case: dict[str, Any]) -> None:
    numbers = iter(case["random"])
    assert picks(LeastLatency(fakes(case), lambda: next(numbers)), case) == case["picks"]
    assert list(numbers) == []


@cases("latency")
def test_latency(case: dict[str, Any]) -> None:
    tracker = LatencyTracker(**case.get("options", {}))
    for step in case["steps"]:
        for _ in range(step.get("times", 1)):
            if "observe" in step:
                tracker.observe(step["observe"], step["now"])
            else:
                assert tracker.latency_s(step["now"]) == pytest.approx(step["is"], rel=1e-12, abs=0), step


@cases("rendezvous", "hashes")
def test_stable_hash(case: dict[str, Any]) -> None:
    assert stable_hash(case["text"]) == stable_hash(case["text"].encode()) == int(case["is"])


@cases("rendezvous")
def test_rendezvous(case: dict[str, Any]) -> None:
    members = [RendezvousMember(*member) for member in case["members"]]
    assert rendezvous_order(case["key"], members) == case["order"]
    for best in case["best"]:
        assert rendezvous_best(case["key"], members, best["allowed"].__contains__) == best["is"]


@cases("outliers")
def test_outliers(case: dict[str, Any]) -> None:
    detector: OutlierDetector[int] = OutlierDetector(OutlierConfig(**case["config"]))
    answers: dict[str, Callable[[dict[str, Any]], object]] = {
        "retain": lambda step: detector.retain(step["keys"]),
        "succeeded": lambda step: detector.succeeded(step["key"], step["now"]),
        "failed": lambda step: detector.failed(step["key"], step["now"]),
        "lost": lambda step: detector.lost(step["key"], step["now"]),
        "active": lambda step: detector.is_active(step["key"]),
        "ejected": lambda _: detector.ejected,
        "next_probe": lambda _: detector.next_probe_at(),
        "probes": lambda step: detector.take_due_probes(step["now"]),
        "probed": lambda step: detector.probed(step["key"], step["ok"], step["now"]),
        "fail_probes": lambda step: fail_probe(detector, step["key"]),
    }
    for step in case["steps"]:
        for _ in range(step.get("times", 1)):
            assert answers[step["do"]](step) == step.get("is"), step


def fail_probe(detector: OutlierDetector[int], key: int) -> None:
    now = detector.next_probe_at()
    assert now is not None
    assert detector.take_due_probes(now) == [key]
    detector.probed(key, False, now)


@cases("retry_budget")
def test_retry_budget(case: dict[str, Any]) -> None:
    budget = RetryBudget(RetryBudgetConfig(**case["config"]))
    answers: dict[str, Callable[[dict[str, Any]], object]] = {
        "request": lambda _: budget.request(),
        "spend": lambda step: budget.try_spend(step["now"]),
        "left": lambda step: pytest.approx(budget.left(step["now"]), rel=1e-12),
    }
    for step in case["steps"]:
        for _ in range(step.get("times", 1)):
            assert answers[step["do"]](step) == step.get("is"), step


@cases("verdict")
def test_verdict(case: dict[str, Any]) -> None:
    code = case["code"] if isinstance(case["code"], int) else Code[case["code"]].value
    connected, retry_safe = case.get("connected", True), case.get("retry_safe", True)
    verdict = judge(code, case["details"], connected=connected, retry_safe=retry_safe)
    assert (verdict.next, verdict.fault) == (Next[case["next"]], Fault[case["fault"]])


def test_every_code_has_a_verdict_among_the_cases() -> None:
    assert {case["code"] for case in CASES["verdict"]["cases"]} >= set(Code.__members__)


@cases("verdict", "never_sent")
def test_never_sent(case: dict[str, Any]) -> None:
    assert was_never_sent(case["details"], connected=case.get("connected", False)) == case["is"]


@cases("policy", "valid")
def test_valid_policy(case: dict[str, Any]) -> None:
    policy = RoutingPolicy.from_dict(case["policy"])
    wanted = CASES["policy"]["defaults"] | case["is"]
    for nested in ("outliers", "budget"):
        wanted[nested] = CASES["policy"]["defaults"][nested] | case["is"].get(nested, {})
    said = policy.to_dict()
    assert said == {name: value for name, value in wanted.items() if value is not None and value != ""}
    assert RoutingPolicy.from_dict(said) == policy


@cases("policy", "invalid")
def test_invalid_policy(case: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as raised:
        RoutingPolicy.from_dict(case["policy"])
    assert raised.value.field == case["field"]
    assert (case["field"] or "policy") in raised.value.message


def _traffic(case: dict[str, Any]) -> Traffic:
    return Traffic(ParseDict(split, pb.TrafficSplit()) for split in case["splits"])


@cases("traffic")
def test_sides_of_requests(case: dict[str, Any]) -> None:
    traffic = _traffic(case)
    for request in case["requests"]:
        numbers = iter(request.get("draws", []))
        metadata, target = request.get("metadata", {}), (request.get("deployment", ""), request["model"])
        sides = traffic.sides(*target, lambda name: metadata.get(name, ""), lambda: next(numbers))  # noqa: B023
        assert [list(side) for side in sides] == request["sides"], request
        endpoints = [pb.Endpoint(deployment=deployment, revision=number) for deployment, number in case["endpoints"]]
        assert [traffic.place(sides, endpoint) for endpoint in endpoints] == request["places"], request
        if "shadow" in request:
            assert traffic.shadow(*target, lambda: next(numbers)) == request["shadow"], request  # noqa: B023
        assert list(numbers) == [], "every number is drawn"


@cases("traffic")
def test_sides_of_keys_and_sequences(case: dict[str, Any]) -> None:
    traffic = _traffic(case)
    for key, side in case.get("keys", []):
        sides = traffic.sides("", "m", lambda name: key if name == "user" else "", _no_chance)  # noqa: B023
        assert sides == (("ab", side),)
    for sequence, side in case.get("sequences", []):
        assert traffic.sides("", "m", lambda _: "", _no_chance, sequence=sequence) == (("ab", side),)


def _no_chance() -> float:
    raise AssertionError("chance decides nothing here")
