"""What is said about applications that are wrong."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.errors import SpecError
from serving.sdk import (
    Application,
    Artifact,
    Placement,
    RateLimiter,
    RateLimiterResource,
    Replicas,
    Resources,
    ResponseCache,
    TritonDeployment,
)
from serving.validation import spec_problems

DIGEST = "sha256:" + "a" * 64
MODELS = TritonDeployment(name="digits", repository=Artifact("file:///artifacts/x.tar", DIGEST, 10))


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"name": "Digits"}, "name", "did you mean `digits`?"),
        ({"name": ""}, "name", "is missing"),
        ({"name": "x" * 64}, "name", "at most 63"),
        ({"name": 7}, "name", "expects a text, got the number 7"),
        ({"namespace": "a/b"}, "namespace", "not a valid name"),
        ({"labels": {"a b": "c"}}, "labels", "not a label"),
        ({"labels": {"a": "x\n"}}, "labels.a", "control characters"),
        ({"labels": ["a"]}, "labels", "expects a mapping, got a list"),
        ({"deployments": []}, "deployments", "at least one"),
        ({"deployments": [MODELS, MODELS]}, "deployments[1].name", "the name of deployments[0] already"),
        ({"deployments": [MODELS] * 65}, "", "at most 64"),
        ({"placement": Placement(clusters=("East",))}, "placement.clusters[0]", "did you mean `east`?"),
        ({"placement": Placement(clusters=("a", "a"))}, "placement.clusters[1]", "stands there twice"),
        ({"placement": Placement(clusters="east")}, "placement.clusters", "write it as [east]"),
        ({"placement": Placement(near=("digits",))}, "placement.near", "names the application itself"),
        ({"placement": Placement(near=("a",), spread_from=("a",))}, "placement.near", "both near and apart"),
        ({"placement": None}, "", ""),
    ],
)
def test_wrong_applications(change: dict[str, Any], field: str, says: str) -> None:
    app = dataclasses.replace(Application("digits", [MODELS]), **change)
    if not says:
        assert app.to_spec() == Application("digits", [MODELS]).to_spec()
        return
    with pytest.raises(SpecError) as caught:
        app.to_spec()
    assert says in str(caught.value)
    assert not field or caught.value.field == field


def _limiter(name: str, count: int, device: int | None = None) -> RateLimiter:
    return RateLimiter((RateLimiterResource(name, count, device),))


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"name": "d" * 41}, "name", "at most 40"),
        ({"repository": ""}, "triton.repository", "is missing"),
        ({"repository": 5}, "triton.repository", "expects a text"),
        ({"repository": Artifact("no-url", DIGEST)}, "triton.repository", "not a url"),
        ({"repository": Artifact("s3://x/y", "md5:1")}, "triton.repository.digest", "64 hexadecimal digits"),
        ({"repository": Artifact("s3://x/y", DIGEST, -1)}, "triton.repository.size_bytes", "negative"),
        ({"models": ("../x",)}, "triton.models[0]", "not a name of a model"),
        ({"models": ("a", "a")}, "triton.models[1]", "twice"),
        ({"backends": {"x y": {}}}, "triton.backends", "not a name of a backend"),
        ({"backends": {"x": {"": "1"}}}, "triton.backends.x", "is empty"),
        ({"event_loops": 257}, "triton.event_loops", "0 to 256"),
        ({"event_loops": 1 << 40}, "triton.event_loops", "far out of range"),
        ({"event_loops": True}, "triton.event_loops", "expects a whole number"),
        ({"max_message_bytes": "2Gi"}, "triton.max_message_bytes", "out of range"),
        ({"max_requests": -1}, "triton.max_requests", "out of range"),
        ({"busy_poll_us": 1001}, "triton.busy_poll_us", "out of range: 0 to 1000; in microseconds"),
        ({"busy_poll_us": "1ms"}, "triton.busy_poll_us", "expects a whole number"),
        ({"log_verbosity": -1}, "triton.log_verbosity", "out of range"),
        ({"model_control": "poll"}, "triton.model_control", "not known"),
        ({"update": "inplace"}, "triton.update", "not known"),
        ({"response_cache": ResponseCache(1023)}, "triton.response_cache.size", "1024 to"),
        ({"response_cache": ResponseCache("64mi")}, "triton.response_cache.size", "did you mean `64Mi`?"),
        ({"response_cache": ResponseCache(4096, "redis")}, "triton.response_cache.type", "not supported"),
        ({"response_cache": ResponseCache(4096, "lokal")}, "triton.response_cache.type", "not known"),
        ({"rate_limiter": RateLimiter(mode="off")}, "triton.rate_limiter.mode", "allowed: execution_count"),
        ({"rate_limiter": _limiter("", 1)}, "triton.rate_limiter.resources[0].name", "not a name of a resource"),
        ({"rate_limiter": _limiter("a:b", 1)}, "triton.rate_limiter.resources[0].name", "not a name of a resource"),
        ({"rate_limiter": _limiter("a", 0)}, "triton.rate_limiter.resources[0].count", "1 to"),
        ({"rate_limiter": _limiter("a", 1, -1)}, "triton.rate_limiter.resources[0].device", "0 to 1023"),
        (
            {"rate_limiter": RateLimiter((RateLimiterResource("a", 1), RateLimiterResource("a", 2)))},
            "triton.rate_limiter.resources[1]",
            "twice",
        ),
        ({"response_cache": 4096}, "triton.response_cache", "expects a mapping"),
        (
            {"response_cache": ResponseCache("1Gi"), "resources": Resources(memory="1Gi")},
            "triton.response_cache.size",
            "leave nothing of resources.memory",
        ),
        (
            {"response_cache": ResponseCache(4096), "update": "in_place"},
            "triton.response_cache",
            "use `update: replace`",
        ),
        ({"resources": Resources(cpus=-1)}, "resources.cpus", "out of range"),
        ({"resources": Resources(cpus="two")}, "resources.cpus", "such as 2, 0.25 or 500m"),
        ({"resources": Resources(cpus=float("nan"))}, "resources.cpus", "out of range"),
        ({"resources": Resources(cpus=0.00001)}, "resources.cpus", "smallest share"),
        ({"resources": Resources(gpus=1.5)}, "resources.gpus", "whole number"),
        ({"resources": Resources(gpus="1")}, "resources.gpus", "expects a number"),
        ({"resources": Resources(memory="512mi")}, "resources.memory", "did you mean `512Mi`?"),
        ({"resources": Resources(custom={"GPU": 1})}, "resources.custom", "not a custom resource"),
        ({"resources": Resources(custom={"a": -1})}, "resources.custom.a", "out of range"),
        ({"resources": Resources(accelerator_type="H 200")}, "resources.accelerator_type", "not a name"),
        ({"replicas": 0}, "replicas.min", "1 to 1000"),
        ({"replicas": Replicas(2, 1)}, "replicas.max", "less than min"),
        ({"replicas": Replicas(1, 2)}, "replicas.max", "which needs autoscaling"),
        ({"replicas": "2"}, "replicas", "expects a whole number"),
        ({"env": {"1A": "x"}}, "env", "not a name of an environment variable"),
        ({"env": {"A": "x\0"}}, "env.A", "NUL"),
        ({"env": {"A": None}}, "env.A", "expects a text"),
        ({"env": {"A": "\ud800"}}, "env.A", "surrogate"),
        ({"max_restarts": -2}, "max_restarts", "-1 is without end"),
        ({"start_timeout": "soon"}, "start_timeout", "such as 30s"),
        ({"start_timeout": 90_000}, "start_timeout", "out of range"),
        ({"drain_timeout": float("inf")}, "drain_timeout", "out of range"),
    ],
)
def test_wrong_deployments(change: dict[str, Any], field: str, says: str) -> None:
    app = Application("digits", [dataclasses.replace(MODELS, **change)])
    with pytest.raises(SpecError) as caught:
        app.to_spec()
    assert says in str(caught.value)
    assert caught.value.field == f"deployments[0].{field}"


def test_all_problems_are_listed_at_once() -> None:
    app = Application("A", [dataclasses.replace(MODELS, name="B", replicas=0)], namespace="C")
    with pytest.raises(SpecError) as caught:
        app.to_spec()
    text = str(caught.value)
    assert "has 4 problems" in text
    for field in ("name:", "namespace:", "deployments[0].name:", "deployments[0].replicas.min:"):
        assert field in text


def test_a_kind_that_is_not_there() -> None:
    spec = Application("a", [MODELS]).to_spec()
    spec.deployments[0].ClearField("triton")
    (problem,) = spec_problems(spec)
    assert problem.field == "deployments[0]"
    assert problem.allowed == (
        "triton",
        "python",
        "cpp",
        "llm",
        "embedding",
        "semantic_cache",
        "broker",
        "batch",
        "serve",
        "proxy",
    )


def test_a_spec_too_large_for_the_store() -> None:
    spec = Application("a", [MODELS]).to_spec()
    spec.deployments[0].env["A"] = "x" * (600 * 1024)
    assert any("bytes, at most" in problem.message for problem in spec_problems(spec))


@given(st.binary(max_size=200))
def test_validation_survives_any_message(data: bytes) -> None:
    """What decodes as a spec is answered with problems or with none, never with another error."""
    spec = pb.ApplicationSpec()
    try:
        spec.ParseFromString(data)
    except Exception:  # noqa: BLE001 - rubbish that is no message at all is not what is tested
        return
    for problem in spec_problems(spec):
        assert problem.message
        assert "\n" not in str(problem)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x)))
def test_any_value_in_any_field_is_answered_with_a_spec_error(value: Any) -> None:
    for kind, extra in ((Resources, {}), (Replicas, {})):
        for field in dataclasses.fields(kind):
            made = kind(**extra, **{field.name: value})
            deployment = dataclasses.replace(MODELS, **{kind.__name__.lower(): made})
            with contextlib.suppress(SpecError):
                Application("a", [deployment]).to_spec()
