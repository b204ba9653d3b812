"""Applications in Python: the spec they make."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from google.protobuf import json_format

from serving.errors import SpecError
from serving.sdk import (
    Application,
    Artifact,
    Autoscaling,
    BrokerDeployment,
    Canary,
    CanaryChecks,
    CanaryStep,
    Forecast,
    Match,
    Placement,
    ProxyDeployment,
    PythonDeployment,
    RateLimiter,
    RateLimiterResource,
    Replicas,
    Resources,
    ResponseCache,
    Rollout,
    ScalingFunction,
    Schedule,
    Scheduling,
    Shadow,
    SlowReplicas,
    TrafficSplit,
    TritonDeployment,
    load_spec,
)
from serving.validation import validate_spec

DIGEST = "sha256:" + "a" * 64
MODELS = TritonDeployment(name="digits", repository=Artifact("file:///artifacts/x.tar", DIGEST, 10))


def full_application(folder: Path) -> Application:
    """What tests/unit/sdk/conftest.py says in YAML."""
    return Application(
        name="digits",
        labels={"team": "vision"},
        placement=Placement(
            clusters=("east", "west"),
            required_labels={"region": "eu"},
            preferred_labels={"disk": "ssd"},
            spread_from=("other",),
            near=("cache",),
        ),
        deployments=[
            TritonDeployment(
                name="digits",
                repository=folder / "models",
                models=("digits",),
                backends={"openvino": {"INFERENCE_NUM_THREADS": 1}},
                event_loops=1,
                max_message_bytes="64Mi",
                max_requests=64,
                busy_poll_us=100,
                log_verbosity=2,
                model_control="explicit",
                update="in_place",
                resources=Resources(cpus=0.5, gpus=0.5, accelerator_type="H200", memory="512Mi", custom={"nvme": 1}),
                replicas=Replicas(2),
                env={"A": "b"},
                max_restarts=3,
                start_timeout=120,
                drain_timeout="45s",
                rollout=Rollout(max_surge="25%", max_unavailable=1, min_ready=5),
            )
        ],
        on_failed_rollout="rollback",
    )


def test_file_and_objects_make_the_same_spec(app_file: Path) -> None:
    from_file = load_spec(app_file)
    from_objects = full_application(app_file.parent)
    assert from_file.to_spec() == from_objects.to_spec()
    assert from_file.local_folders() == from_objects.local_folders() == (app_file.parent / "models",)


def test_every_field_reaches_the_record(tmp_path: Path) -> None:
    spec = full_application(tmp_path).to_spec({tmp_path / "models": Artifact("file:///a.tar", DIGEST, 7)})
    shown = json_format.MessageToDict(spec, preserving_proto_field_name=True)
    assert shown["placement"] == {
        "clusters": ["east", "west"],
        "required_labels": {"region": "eu"},
        "preferred_labels": {"disk": "ssd"},
        "spread_from": ["other"],
        "near": ["cache"],
    }
    assert shown["deployments"] == [
        {
            "name": "digits",
            "resources": {
                "cpus": 0.5,
                "gpus": 0.5,
                "accelerator_type": "H200",
                "memory_bytes": str(512 << 20),
                "custom": {"nvme": 1.0},
            },
            "replicas": {"min": 2, "max": 2},
            "env": {"A": "b"},
            "max_restarts": 3,
            "start_timeout_s": 120.0,
            "drain_timeout_s": 45.0,
            "rollout": {"max_surge": {"percent": 25}, "max_unavailable": {"count": 1}, "min_ready_s": 5.0},
            "triton": {
                "repository": {"uri": "file:///a.tar", "digest": DIGEST, "size_bytes": "7"},
                "models": ["digits"],
                "backends": {"openvino": {"settings": {"INFERENCE_NUM_THREADS": "1"}}},
                "event_loops": 1,
                "max_message_bytes": str(64 << 20),
                "max_requests": "64",
                "busy_poll_us": 100,
                "log_verbosity": 2,
                "model_control": "explicit",
                "update": "in_place",
            },
        }
    ]
    validate_spec(spec)


def test_every_field_of_the_records_has_a_word_in_the_table(tmp_path: Path) -> None:
    """A field added to the records must be added here, or be left out on purpose."""
    spec = full_application(tmp_path).to_spec({tmp_path / "models": Artifact("file:///a.tar", DIGEST, 7)})
    triton = spec.deployments[0].triton
    # Excludes `update: in_place`, which the application has.
    limiter = RateLimiter((RateLimiterResource("seats", 2, 0),))
    cached = dataclasses.replace(MODELS, response_cache=ResponseCache("64Mi"), rate_limiter=limiter)
    triton.MergeFrom(Application("a", [cached]).to_spec().deployments[0].triton)
    every = dict.fromkeys(("target_ongoing", "target_requests_per_s", "target_cpu", "target_p99"), 1.0)
    steps = dict.fromkeys(("up_delay", "max_step_up", "max_step_down"), 1)
    schedule = (Schedule("08:00", "20:00", 1, ("mon",)),)
    asked = ScalingFunction("sizes:size", Artifact("file:///p.tar", DIGEST, 1), {"per_replica": 3})
    options = Autoscaling(**every, **steps, schedule=schedule, forecast=Forecast("12h", "10m"), policy=asked)  # type: ignore[arg-type]
    scaled = dataclasses.replace(MODELS, autoscaling=options)
    spec.deployments[0].MergeFrom(Application("a", [scaled]).to_spec().deployments[0])
    queued = PythonDeployment("own", "own:Own", autoscaling=Autoscaling(target_queue_age=60), dispatch="pull")
    queue = Application("a", [queued, BrokerDeployment("queue")]).to_spec()
    spec.deployments[0].autoscaling.MergeFrom(queue.deployments[0].autoscaling)
    spec.deployments[0].dispatch = queue.deployments[0].dispatch
    match = (Match("x-canary", "1"),)
    canary = Canary((CanaryStep(5, 60), CanaryStep(50)), "user", match, CanaryChecks(0.01, 0.2, 1.5, 100))
    where = Scheduling({"zone": "a"}, "spread")
    tried = dataclasses.replace(MODELS, rollout=Rollout(canary=canary), scheduling=where, replace_slow=SlowReplicas(5))
    spec.deployments[0].MergeFrom(Application("a", [tried]).to_spec().deployments[0])
    own = Scheduling(bundles=[Resources()], bundle_strategy="spread")
    coded = PythonDeployment("own", "own:Own", scheduling=own)
    spec.deployments[0].scheduling.MergeFrom(Application("a", [coded]).to_spec().deployments[0].scheduling)
    other = dataclasses.replace(MODELS, name="other")
    to = (Match("x-side", "b", MODELS.name),)
    split = TrafficSplit({MODELS.name: 1}, "digits", "ab", "user", to, Shadow("other", 10))
    spec.traffic.extend(Application("a", [MODELS, other], traffic=(split,)).to_spec().traffic)
    front = ProxyDeployment("grpc", {"probes": 3}, hold=1, max_message_bytes=1, busy_poll_us=1)
    proxy = Application("a", [MODELS, front]).to_spec().deployments[1].proxy
    over_http = Application("a", [MODELS, ProxyDeployment("http", protocol="http")]).to_spec()
    proxy.MergeFrom(over_http.deployments[1].proxy)
    for message in (
        spec,
        spec.placement,
        spec.deployments[0],
        triton,
        triton.response_cache,
        triton.rate_limiter,
        triton.rate_limiter.resources[0],
        spec.deployments[0].resources,
        spec.deployments[0].rollout,
        spec.deployments[0].rollout.canary,
        spec.deployments[0].rollout.canary.checks,
        spec.traffic[0].matches[0],
        spec.traffic[0].shadow,
        spec.deployments[0].autoscaling,
        spec.deployments[0].autoscaling.schedule[0],
        spec.deployments[0].autoscaling.forecast,
        spec.deployments[0].autoscaling.policy,
        spec.deployments[0].scheduling,
        spec.deployments[0].replace_slow,
        proxy,
    ):
        others = {field.name for kinds in message.DESCRIPTOR.oneofs for field in kinds.fields}
        wanted = {field.name for field in message.DESCRIPTOR.fields} - others
        assert wanted <= {field.name for field, _ in message.ListFields()}


def test_a_response_cache_from_a_file(app_file: Path) -> None:
    app_file.write_text(app_file.read_text().replace("update: in_place", "response_cache: {size: 64Mi}"))
    cache = load_spec(app_file).to_spec().deployments[0].triton.response_cache
    assert (cache.type, cache.size_bytes) == ("local", 64 << 20)
    wrong = app_file.read_text().replace("{size: 64Mi}", "{size: 64Mi, type: redis}")
    app_file.write_text(wrong)
    line = wrong[: wrong.index("response_cache")].count("\n") + 1
    with pytest.raises(SpecError, match=rf"{line}.*response_cache\.type.*`redis` is not supported.*allowed: local"):
        load_spec(app_file).to_spec()


def test_a_rate_limiter_from_a_file(app_file: Path) -> None:
    option = "rate_limiter: {resources: [{name: seats, count: 2}, {name: copies, count: 1, device: 0}]}"
    app_file.write_text(app_file.read_text().replace("update: in_place", option))
    limiter = load_spec(app_file).to_spec().deployments[0].triton.rate_limiter
    assert limiter.mode == "execution_count"
    resources = [(each.name, each.count, each.HasField("device")) for each in limiter.resources]
    assert resources == [("seats", 2, False), ("copies", 1, True)]


def test_defaults(tmp_path: Path) -> None:
    spec = Application("a", [TritonDeployment("d", tmp_path)]).to_spec()
    assert spec.namespace == "default"
    deployment = spec.deployments[0]
    assert (deployment.replicas.min, deployment.replicas.max, deployment.resources.cpus) == (1, 1, 1.0)
    assert (deployment.max_restarts, deployment.start_timeout_s, deployment.drain_timeout_s) == (-1, 120.0, 30.0)


def test_unpacked_folders_are_told_apart(tmp_path: Path) -> None:
    spec = Application("a", [TritonDeployment("d", tmp_path)]).to_spec()
    assert spec.deployments[0].triton.repository.uri == tmp_path.as_uri()
    with pytest.raises(SpecError, match=r"repository\.digest: is missing"):
        validate_spec(spec)
