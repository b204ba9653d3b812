"""Sizes, nodes and slow replicas in specs: what is read, and what is refused in which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from serving.errors import SpecError
from serving.sdk import (
    Application,
    Artifact,
    Autoscaling,
    BrokerDeployment,
    Forecast,
    ProxyDeployment,
    PythonDeployment,
    Replicas,
    Resources,
    ScalingFunction,
    Schedule,
    Scheduling,
    SlowReplicas,
    TritonDeployment,
    load_spec,
)

MODELS = TritonDeployment("digits", Artifact("file:///artifacts/x.tar", "sha256:" + "a" * 64, 10))


@pytest.mark.parametrize(
    ("autoscaling", "replicas", "says"),
    [
        (Autoscaling(), Replicas(1, 3), "names no target, no policy and no schedule"),
        (Autoscaling(target_ongoing=1), Replicas(0, 3), "none at all needs autoscaling, gRPC proxies that hold"),
        (Autoscaling(target_ongoing=-1), Replicas(1, 3), "target_ongoing: -1 is out of range"),
        (Autoscaling(target_cpu=0.5, window="2h"), Replicas(1, 3), "window: 7200 is out of range"),
        (Autoscaling(schedule=(Schedule("8", "20:00", 1),)), Replicas(1, 3), "`8` is not a time of day such as 08:30"),
        (Autoscaling(schedule=(Schedule("08:00", "20:00", 4),)), Replicas(1, 3), "1 to 3 (replicas.max)"),
        (Autoscaling(schedule=(Schedule("08:00", "20:00", 1, ("monday",)),)), Replicas(1, 3), "did you mean `mon`"),
        (Autoscaling(target_ongoing=1), Replicas(2, 1), "1 is less than min (2)"),
    ],
)
def test_wrong_autoscaling(autoscaling: Autoscaling, replicas: Replicas, says: str) -> None:
    app = Application("digits", [dataclasses.replace(MODELS, autoscaling=autoscaling, replicas=replicas)])
    with pytest.raises(SpecError) as caught:
        app.to_spec()
    assert says in str(caught.value)
    assert "problems" not in str(caught.value)


def test_none_at_all_behind_proxies() -> None:
    scaled = dataclasses.replace(MODELS, autoscaling=Autoscaling(target_ongoing=1), replicas=Replicas(0, 3))
    proxies = ProxyDeployment("grpc")
    assert Application("digits", [scaled, proxies]).to_spec().deployments[0].replicas.min == 0
    without = dataclasses.replace(proxies, autoscaling=Autoscaling(target_ongoing=1), replicas=Replicas(0, 3))
    with pytest.raises(SpecError, match=r"deployments\[1\].replicas.min: 0 is out of range"):
        Application("digits", [scaled, without]).to_spec()
    by_rate = dataclasses.replace(proxies, autoscaling=Autoscaling(target_requests_per_s=1))
    with pytest.raises(SpecError, match="of proxies goes by target_ongoing and target_cpu only"):
        Application("digits", [scaled, by_rate]).to_spec()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"autoscaling": Autoscaling(target_ongoing=1, forecast=Forecast("5m"))},
            "forecast.period: 300 is out",
        ),
        ({"autoscaling": Autoscaling(target_ongoing=1, forecast=Forecast("1h", "1h"))}, "forecast.ahead: 3600 is out"),
        ({"autoscaling": Autoscaling(target_p99=1, forecast=Forecast())}, "forecast: needs target_ongoing"),
        (
            {"autoscaling": Autoscaling(policy=ScalingFunction("sizes"))},
            "policy.entry: `sizes` is not `module:fun",
        ),
        ({"scheduling": Scheduling({"": "a"})}, "scheduling.node_labels: `` is not a label"),
        ({"scheduling": Scheduling(strategy="sprad")}, "did you mean `spread`"),
        ({"scheduling": Scheduling(bundles=[Resources(gpus=1)])}, "bundles: is not supported with `triton`"),
        ({"scheduling": Scheduling(bundles=[Resources(cpus=-1)])}, "scheduling.bundles[0].cpus: -1 is out of range"),
        ({"scheduling": Scheduling(bundles=[Resources(cpus=0)])}, "scheduling.bundles[0]: reserves nothing"),
        ({"scheduling": Scheduling(bundle_strategy="packed")}, "did you mean `pack`"),
        ({"scheduling": Scheduling(bundle_strategy="pack")}, "bundle_strategy: needs `bundles`"),
        (
            {"scheduling": Scheduling(strategy="pack", bundles=[Resources()])},
            "scheduling.strategy: does not go with `bundles`",
        ),
        ({"replace_slow": SlowReplicas(1.5)}, "replace_slow.factor: 1.5 is out of range: 2 to"),
        ({"replace_slow": SlowReplicas(5, "2h")}, "replace_slow.after: 7200 is out of range"),
    ],
)
def test_wrong_options_of_sizes_and_nodes(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        Application("digits", [dataclasses.replace(MODELS, **changes)]).to_spec()
    assert says in str(caught.value)


def test_a_policy_in_a_file(tmp_path: Path) -> None:
    text = """
name: shop
deployments:
  - name: rank
    python: {entry: "rank:Ranker"}
    replicas: {min: 1, max: 3}
    autoscaling: {policy: {entry: "sizes:size", code: ./policy, args: {per_replica: 3}}}
"""
    (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"policy.code: the folder .*policy does not exist"):
        load_spec(tmp_path / "app.yaml")
    (tmp_path / "policy").mkdir()
    application = load_spec(tmp_path / "app.yaml")
    assert application.local_folders() == (tmp_path / "policy",)
    packed = Artifact("file:///p.tar", "sha256:" + "a" * 64, 7)
    policy = application.to_spec({tmp_path / "policy": packed}).deployments[0].autoscaling.policy
    assert (policy.entry, policy.code.uri, policy.args) == ("sizes:size", "file:///p.tar", '{"per_replica": 3}')


def test_bundles_in_a_file(tmp_path: Path) -> None:
    text = """
name: llm
deployments:
  - name: chat
    python: {entry: "chat:Chat"}
    scheduling: {bundles: [{gpus: 1}, {cpus: 2, accelerator_type: H200, gpus: 1}], bundle_strategy: strict_pack}
"""
    (tmp_path / "app.yaml").write_text(text)
    application = load_spec(tmp_path / "app.yaml")
    assert application.deployments[0].scheduling.bundles == (
        Resources(gpus=1),
        Resources(cpus=2, gpus=1, accelerator_type="H200"),
    )
    made = application.to_spec().deployments[0].scheduling
    assert [(bundle.cpus, bundle.gpus, bundle.accelerator_type) for bundle in made.bundles] == [
        (1, 1, ""),
        (2, 1, "H200"),
    ]
    assert made.bundle_strategy == "strict_pack"


def test_what_a_broker_keeps_requests_for_may_have_none_and_be_scaled_by_age() -> None:
    by_age = Autoscaling(target_queue_age="2m")
    reader = PythonDeployment("reader", "reader:Reader", autoscaling=by_age, replicas=Replicas(0, 3))
    other = dataclasses.replace(reader, name="other")
    made = Application("app", [reader, MODELS, BrokerDeployment("queue")]).to_spec()
    assert made.deployments[0].replicas.min == 0
    assert made.deployments[0].autoscaling.target_queue_age_s == 120
    with pytest.raises(SpecError, match=r"deployments\[0\].replicas.min: 0 is out of range.*or a broker"):
        Application("app", [other, reader, BrokerDeployment("queue", before=["reader"])]).to_spec()
    with pytest.raises(SpecError, match=r"target_queue_age: needs a `broker` that takes the deployment's requests"):
        Application("app", [dataclasses.replace(other, replicas=Replicas(1, 3)), MODELS]).to_spec()
