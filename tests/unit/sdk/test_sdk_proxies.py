"""Proxies in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict

from serving import Application, LlmDeployment, ProxyDeployment, PythonDeployment, Replicas, TritonDeployment
from serving._proto import records_pb2 as pb
from serving.errors import SpecError
from serving.routing import RoutingPolicy
from serving.sdk import Artifact, Autoscaling, parse_spec
from serving.sdk.spec import Deployment
from serving.validation import spec_problems

ARTIFACT = Artifact("file:///models.tar", "sha256:" + "a" * 64)
POLICY = {"choice": "least_latency", "outliers": {"base_s": 0.5}, "max_in_flight_per_endpoint": 64}
HEAD = f"""
name: digits
deployments:
  - name: digits
    triton: {{repository: {{uri: "{ARTIFACT.uri}", digest: "{ARTIFACT.digest}"}}}}
  - name: grpc
"""


def spec_of(*proxies: ProxyDeployment) -> pb.ApplicationSpec:
    return Application("digits", [TritonDeployment("digits", ARTIFACT), *proxies]).to_spec()


def test_yaml_and_python_say_the_same() -> None:
    text = (
        HEAD
        + """
    proxy:
      policy: {choice: least_latency, outliers: {base_s: 0.5}, max_in_flight_per_endpoint: 64}
      hold: 10s
      max_message_bytes: 64Mi
      busy_poll_us: 100
    replicas: 2
"""
    )
    read = parse_spec(text).to_spec()
    options = {"hold": 10, "max_message_bytes": 64 * 2**20, "busy_poll_us": 100, "replicas": 2}
    assert read == spec_of(ProxyDeployment("grpc", POLICY, **options))  # type: ignore[arg-type]
    assert read == spec_of(ProxyDeployment("grpc", RoutingPolicy.from_dict(POLICY), **options))  # type: ignore[arg-type]
    proxy = read.deployments[1].proxy
    assert MessageToDict(proxy.policy) == POLICY
    assert (proxy.hold_s, proxy.max_message_bytes, proxy.busy_poll_us) == (10, 64 * 2**20, 100)


def test_what_is_usual_is_not_stored() -> None:
    plain = spec_of(ProxyDeployment("grpc"))
    assert not plain.deployments[1].proxy.HasField("policy")
    assert plain == spec_of(ProxyDeployment("grpc", RoutingPolicy()))
    assert plain == parse_spec(HEAD + "    proxy: {}").to_spec()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "proxy: {policy: {choice: lest_latency}}",
            "choice: `lest_latency` is not known; did you mean `least_latency`",
        ),
        (
            "proxy: {policy: {choice: consistent_hash}}",
            "proxy.policy.hash_key: is required with choice consistent_hash",
        ),
        ("proxy: {policy: {probes: 200}}", "proxy.policy.probes: must be a whole number from 1 to 100, not 200"),
        (
            "proxy: {policy: {outliers: {base: 1}}}",
            "proxy.policy.outliers.base: the policy's outliers has no such field",
        ),
        (
            "proxy: {policy: {budget: {share: -1}}}",
            "proxy.policy.budget.share: must be a number from 0.0 to 10.0, not -1",
        ),
        ("proxy: {hold: 2d}", "proxy.hold:"),
        ("proxy: {hold: 48h}", "proxy.hold: 172800 is out of range"),
        ("proxy: {busy_poll_us: -5}", "proxy.busy_poll_us: -5 is out of range"),
        ("proxy: {protocol: htp}", "proxy.protocol: `htp` is not known; did you mean `http`"),
        (
            "proxy: {protocol: http, policy: {choice: least_latency}}",
            "proxy.policy: is of gRPC proxies only: with `protocol: http` each model says itself how it is chosen",
        ),
        (
            "proxy: {protocol: http, busy_poll_us: 50}",
            "proxy.busy_poll_us: is of gRPC proxies only: what runs with `protocol: http` always sleeps",
        ),
        ("proxy: {protocol: http, max_message_bytes: 4Gi}", "proxy.max_message_bytes: 4294967296 is out of range"),
        ("proxi: {}", "proxi: a deployment has no such field; did you mean `proxy`"),
        ("env: {}", "deployments[1]: does not say what it is (allowed: triton, python, cpp, "),
        ("{proxy: {}, triton: {repository: .}}", "deployments[1]: says `triton` and `proxy`, but is one of them"),
    ],
)
def test_what_is_wrong_is_named_once(written: str, message: str) -> None:
    fields = written[1:-1].replace("}, ", "}\n    ") if written.startswith("{") else written
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{HEAD}    {fields}\n")
    assert message in str(caught.value)
    assert "problems" not in str(caught.value)


def test_proxies_need_something_to_stand_before() -> None:
    with pytest.raises(SpecError, match="has proxies only"):
        Application("digits", [ProxyDeployment("grpc")]).to_spec()


def chat(*others: Deployment) -> Application:
    return Application("chat", [LlmDeployment("chat", ARTIFACT), *others])


def test_an_http_proxy() -> None:
    text = f"""
name: chat
deployments:
  - name: chat
    llm: {{weights: {{uri: "{ARTIFACT.uri}", digest: "{ARTIFACT.digest}"}}}}
  - name: http
    proxy: {{protocol: http, hold: 5s, max_message_bytes: 1Mi}}
    replicas: 2
"""
    read = parse_spec(text).to_spec()
    assert (
        read
        == chat(
            ProxyDeployment("http", protocol="http", hold=5, max_message_bytes=2**20, replicas=Replicas(2))
        ).to_spec()
    )
    proxy = read.deployments[1].proxy
    assert (proxy.protocol, proxy.hold_s, proxy.max_message_bytes) == ("http", 5, 2**20)


def test_proxies_of_before_are_the_same() -> None:
    """That they speak gRPC is not stored, or those that run would be replaced."""
    plain, said = spec_of(ProxyDeployment("grpc")), spec_of(ProxyDeployment("grpc", protocol="grpc"))
    assert plain == said
    assert not said.deployments[1].proxy.protocol


def test_each_kind_of_proxy_needs_what_it_reaches() -> None:
    over_http, over_grpc = ProxyDeployment("http", protocol="http"), ProxyDeployment("grpc")
    with pytest.raises(SpecError, match="gRPC proxies do not reach `serve` and `llm`, and there are no other"):
        chat(over_http, over_grpc).to_spec()
    python = PythonDeployment("steps", "steps:Model")
    with pytest.raises(SpecError, match="HTTP proxies reach `llm`, `embedding`, `triton`, `cpp`, and there is none"):
        Application("app", [python, over_http]).to_spec()
    Application("app", [python, over_grpc]).to_spec()
    assert len(spec_of(over_http, over_grpc).deployments) == 3


def test_only_grpc_proxies_hold_requests_for_nobody() -> None:
    none = TritonDeployment("digits", ARTIFACT, replicas=Replicas(0, 2), autoscaling=Autoscaling(target_ongoing=1))
    Application("digits", [none, ProxyDeployment("grpc")]).to_spec()
    with pytest.raises(SpecError, match="none at all needs autoscaling, gRPC proxies that hold requests"):
        Application("digits", [none, ProxyDeployment("http", protocol="http")]).to_spec()


def test_a_keeper_checks_the_policy_of_any_client() -> None:
    spec = spec_of(ProxyDeployment("grpc"))
    spec.deployments[1].proxy.policy.update({"choice": "random"})
    (problem,) = spec_problems(spec)
    assert problem.field == "deployments[1].proxy.policy.choice"
    assert "power_of_two" in problem.allowed
