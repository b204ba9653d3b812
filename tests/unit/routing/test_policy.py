"""What the Python client takes over of a policy. What is accepted and refused is in tests/contract/routing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from serving.discovery.client_config import ClientConfig
from serving.discovery.client_health import HealthConfig
from serving.errors import NotSupported, SpecError
from serving.routing import OutlierConfig, RetryBudgetConfig, RoutingPolicy
from serving.routing.policy import _BUDGET_NUMBERS, _NUMBERS, _OUTLIER_NUMBERS, CHOICES

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "routing.md"


def test_defaults_of_policy_and_client_are_one() -> None:
    assert ClientConfig.from_policy(RoutingPolicy()) == ClientConfig()


def test_everything_is_taken_over() -> None:
    policy = RoutingPolicy(
        choice="consistent_hash",
        hash_key="user",
        prefer_labels=(("zone", "a"),),
        outliers=OutlierConfig(consecutive_failures=7),
        budget=RetryBudgetConfig(share=0.1),
        max_attempts=3,
        backoff_s=0.5,
        backoff_max_s=2.0,
        unknown_model_wait_s=4.0,
        max_queued=5,
        suspect_after_s=6.0,
        probe_timeout_s=7.0,
        probes=8,
    )
    assert ClientConfig.from_policy(policy) == ClientConfig(
        outliers=OutlierConfig(consecutive_failures=7),
        budget=RetryBudgetConfig(share=0.1),
        health=HealthConfig(suspect_after_s=6.0, probe_timeout_s=7.0, probes=8),
        max_attempts=3,
        backoff_s=0.5,
        backoff_max_s=2.0,
        unknown_model_wait_s=4.0,
        choice="consistent_hash",
        hash_key="user",
        prefer_labels=(("zone", "a"),),
    )


@pytest.mark.parametrize("policy", [RoutingPolicy(max_in_flight_per_endpoint=8), RoutingPolicy(hedge_after_s=0.1)])
def test_what_only_proxies_do_is_refused_by_name(policy: RoutingPolicy) -> None:
    with pytest.raises(NotSupported, match=r"^(max_in_flight_per_endpoint|hedge_after_s): .* a proxy does"):
        ClientConfig.from_policy(policy)


def test_a_wrong_field_is_named_with_what_is_meant() -> None:
    with pytest.raises(SpecError) as raised:
        RoutingPolicy.from_dict({"outliers": {"max_shares": 1}})
    assert raised.value.closest == "max_share"
    assert "window_s" in raised.value.allowed
    with pytest.raises(SpecError, match=r"did you mean `least_latency`\? \(allowed: power_of_two, least_latency"):
        RoutingPolicy(choice="least_latencies")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1", None])
def test_what_json_cannot_say_is_refused_too(value: object) -> None:
    with pytest.raises(SpecError) as raised:
        RoutingPolicy(backoff_s=value)  # type: ignore[arg-type]
    assert raised.value.field == "backoff_s"


def test_labels_are_bounded() -> None:
    labels = {f"label-{number}": "x" for number in range(256)}
    assert len(RoutingPolicy.from_dict({"prefer_labels": labels}).prefer_labels) == 256
    with pytest.raises(SpecError, match="prefer_labels: has more than 256 entries"):
        RoutingPolicy.from_dict({"prefer_labels": labels | {"one more": "x"}})


def test_the_guide_has_every_field_with_its_default_and_limits() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\S*) ?\| (.*?) \|", GUIDE.read_text("utf-8"), re.MULTILINE)
    policy = RoutingPolicy()
    plain = {name for item in dataclasses.fields(policy) if (name := item.name) not in ("outliers", "budget")}
    nested = {f"outliers.{name}" for name in _OUTLIER_NUMBERS} | {f"budget.{name}" for name in _BUDGET_NUMBERS}
    assert {name for name, _, _ in rows} == plain | nested
    limits = _NUMBERS | {f"outliers.{name}": pair for name, pair in _OUTLIER_NUMBERS.items()}
    limits |= {f"budget.{name}": pair for name, pair in _BUDGET_NUMBERS.items()}
    for name, default, values in rows:
        found: object = policy
        for part in name.split("."):
            found = getattr(found, part)
        if name in limits:
            assert default == ("" if found is None else f"{found:g}"), name
            assert values == " to ".join(f"{limit:g}".replace("1e+06", "1000000") for limit in limits[name]), name
    assert ("choice", policy.choice, ", ".join(CHOICES)) in rows
