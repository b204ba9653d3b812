"""Brokers in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import pytest

from serving import (
    Application,
    BrokerCallbacks,
    BrokerDeployment,
    LlmDeployment,
    ProxyDeployment,
    PythonDeployment,
    RedisJournals,
    Rollout,
)
from serving.broker.pulled import pulled_deployments, takes, with_pulled
from serving.errors import SpecError
from serving.sdk import (
    Artifact,
    Canary,
    CanaryStep,
    CppDeployment,
    EmbeddingDeployment,
    ServeDeployment,
    TritonDeployment,
    parse_spec,
)
from serving.sdk.spec import Deployment

WEIGHTS = Artifact("file:///chat.tar", "sha256:" + "a" * 64)
CHAT = LlmDeployment("chat", WEIGHTS)
READER = PythonDeployment("reader", "reader:Reader")
VECTORS = EmbeddingDeployment("vectors")
DIGITS = TritonDeployment("digits", WEIGHTS)
FAST = CppDeployment("fast", "/opt/libfast.so")
RAY = ServeDeployment("ray", "module:app")
FULL = f"""
name: app
deployments:
  - name: chat
    llm:
      weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}
  - name: queue
    broker:
      before: [chat]
      lease: 20s
      max_attempts: 5
      result_ttl: 2h
      max_items: 5000
      max_bytes: 1Gi
      max_tenant_items: 100
      max_tenant_bytes: 1Mi
      max_result_ttl: 48h
      dead_ttl: 24h
      max_request_bytes: 1Mi
      max_result_bytes: 2Mi
      path: /var/lib/mesh
      sync: normal
      ageing: 30s
      short_share: 0.6
      long_share: 0.2
      per_replica: 4
      callbacks:
        hosts: ["*.example.org", hooks.example.com]
        networks: [10.0.0.0/8]
        allow_http: true
        secrets: /etc/mesh/hooks
        timeout: 20s
        max_attempts: 7
        max_age: 2h
        first_delay: 1s
        max_delay: 10m
        concurrency: 10
        per_host: 2
        max_inline_bytes: 4Ki
        max_due: 50
        per_tenant: 3
        max_tenant_due: 20
      redis:
        url: rediss://mesh@redis.example.org:6380/2
        password_file: /etc/mesh/redis.password
        ca_file: /etc/mesh/ca.pem
        cert_file: /etc/mesh/broker.pem
        key_file: /etc/mesh/broker.key
        replicas: 1
        takeover: 20s
        allow_volatile: true
"""


def spec(*deployments: Deployment) -> Application:
    return Application("app", deployments)


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(FULL).to_spec()
    made = BrokerDeployment(
        "queue",
        before=["chat"],
        lease="20s",
        max_attempts=5,
        result_ttl=7200,
        max_items=5000,
        max_bytes="1Gi",
        max_tenant_items=100,
        max_tenant_bytes="1Mi",
        max_result_ttl="48h",
        dead_ttl=86_400,
        max_request_bytes=1 << 20,
        max_result_bytes="2Mi",
        path="/var/lib/mesh",
        sync="normal",
        ageing=30,
        short_share=0.6,
        long_share=0.2,
        per_replica=4,
        callbacks=BrokerCallbacks(
            hosts=["*.example.org", "hooks.example.com"],
            networks=["10.0.0.0/8"],
            allow_http=True,
            secrets="/etc/mesh/hooks",
            timeout=20,
            max_attempts=7,
            max_age="2h",
            first_delay=1,
            max_delay=600,
            concurrency=10,
            per_host=2,
            max_inline_bytes=4096,
            max_due=50,
            per_tenant=3,
            max_tenant_due=20,
        ),
        redis=RedisJournals(
            "rediss://mesh@redis.example.org:6380/2",
            password_file="/etc/mesh/redis.password",
            ca_file="/etc/mesh/ca.pem",
            cert_file="/etc/mesh/broker.pem",
            key_file="/etc/mesh/broker.key",
            replicas=1,
            takeover=20,
            allow_volatile=True,
        ),
    )
    assert read == spec(CHAT, made).to_spec()
    broker = read.deployments[1].broker
    assert (broker.lease_s, broker.max_bytes, broker.ageing_s) == (20, 1 << 30, 30)


def test_what_is_usual_is_not_stored() -> None:
    plain = spec(CHAT, BrokerDeployment("queue")).to_spec()
    assert plain.deployments[1].WhichOneof("kind") == "broker"
    assert plain.deployments[1].broker.ListFields() == []
    never = spec(CHAT, BrokerDeployment("queue", ageing=0)).to_spec().deployments[1].broker
    assert never.HasField("ageing_s")
    assert never.ageing_s == 0


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"before": ["chta"]}, r"before\[0\]: `chta` is no deployment of the application; did you mean `chat`"),
        ({"before": ["ray"]}, r"before\[0\]: `ray` is of kind `serve`, whose replicas .* not supported"),
        ({"before": ["grpc"]}, r"before\[0\]: `grpc` is of kind `proxy`, which has no requests of its own"),
        ({"before": ["queue"]}, r"before\[0\]: `queue` is of kind `broker`, which has no requests of its own"),
        ({"before": ["chat", "chat"]}, r"before\[1\]: `chat` stands there twice"),
        ({"lease": 0.5}, "lease: 0.5 s is out of range: 1 to 3600 s"),
        ({"max_attempts": -1}, "max_attempts: -1 is out of range"),
        ({"result_ttl": -5}, "result_ttl: -5 is out of range"),
        ({"max_items": -1}, "max_items: -1 is out of range: 0 to 100000000; 0 is the default of 1000000"),
        ({"max_tenant_items": -1}, "max_tenant_items: -1 is out of range"),
        ({"max_tenant_bytes": -1}, "max_tenant_bytes: -1 is out of range"),
        ({"dead_ttl": -1}, "dead_ttl: -1 is out of range"),
        ({"max_result_ttl": -1}, "max_result_ttl: -1 is out of range"),
        ({"max_result_ttl": 60}, "max_result_ttl: 60 s is shorter than result_ttl, 3600 s"),
        ({"max_bytes": "2000Ti"}, "max_bytes: .* is out of range"),
        ({"max_request_bytes": "2Gi"}, "max_request_bytes: .* is out of range"),
        ({"max_result_bytes": "2Gi"}, "max_result_bytes: .* is out of range"),
        ({"path": "here"}, "path: `here` is not the absolute path"),
        ({"sync": "off"}, r"sync: `off` is not known \(allowed: full, normal\)"),
        ({"ageing": -1}, "ageing: -1 is out of range"),
        ({"short_share": 1.5}, "short_share: 1.5 is not a share between 0 and 1"),
        ({"short_share": float("nan")}, "short_share: nan is not a share"),
        ({"short_share": 0.8, "long_share": 0.3}, "long_share: 0.3 and short_share 0.8 are more than all places"),
        ({"per_replica": -1}, "per_replica: -1 is out of range"),
        ({"callbacks": BrokerCallbacks(hosts=["http://a"])}, r"callbacks.hosts\[0\]: `http://a` is neither a host"),
        ({"callbacks": BrokerCallbacks(hosts=["a", "a"])}, r"callbacks.hosts\[1\]: `a` stands there twice"),
        ({"callbacks": BrokerCallbacks(networks=["10.0.0.1/8"])}, r"callbacks.networks\[0\]: is no network"),
        ({"callbacks": BrokerCallbacks(secrets="here")}, "callbacks.secrets: `here` is not the absolute path"),
        ({"callbacks": BrokerCallbacks(timeout=1000)}, "callbacks.timeout: 1000 is out of range"),
        ({"callbacks": BrokerCallbacks(max_delay=-1)}, "callbacks.max_delay: -1 is out of range"),
        ({"callbacks": BrokerCallbacks(per_tenant=2000)}, "callbacks.per_tenant: 2000 is out of range"),
        ({"callbacks": BrokerCallbacks(max_tenant_due=-1)}, "callbacks.max_tenant_due: -1 is out of range"),
        ({"callbacks": BrokerCallbacks(per_host=2000)}, "callbacks.per_host: 2000 is out of range"),
        ({"callbacks": BrokerCallbacks(max_inline_bytes="2Mi")}, "callbacks.max_inline_bytes: .* is out of range"),
        ({"redis": RedisJournals("redis://:geheim@a")}, "redis.url: has a password, which everyone could read"),
        ({"redis": RedisJournals("http://a")}, "redis.url: is not `redis://host"),
        ({"redis": RedisJournals("redis://a:99999")}, "redis.url: is not the address of a Redis server"),
        ({"redis": RedisJournals("redis://a/b")}, "redis.url: names a database that is not a number"),
        ({"redis": RedisJournals("redis://a?db=3")}, "redis.url: is not `redis"),
        ({"redis": RedisJournals("redis://a", password_file="p")}, "redis.password_file: `p` is not the absolute path"),
        ({"redis": RedisJournals("redis://a", ca_file="/ca")}, "redis.ca_file: needs a `rediss://` url"),
        ({"redis": RedisJournals("rediss://a", key_file="/k")}, "redis.cert_file: belongs together with `key_file`"),
        ({"redis": RedisJournals("redis://a", takeover=0.5)}, "redis.takeover: 0.5 s is out of range: 1 to 600 s"),
        ({"redis": RedisJournals("redis://a", replicas=-1)}, "redis.replicas: -1 is out of range"),
        (
            {"redis": RedisJournals("redis://a"), "max_result_bytes": "300Mi"},
            "max_result_bytes: can be 256 MiB at most",
        ),
        ({"rollout": Rollout(canary=Canary((CanaryStep(50, "1m"),)))}, "canary: is not supported with `broker`"),
    ],
    ids=lambda one: str(one)[:60],
)
def test_what_is_wrong_is_named(changed: dict[str, object], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        spec(CHAT, RAY, ProxyDeployment("grpc"), BrokerDeployment("queue", **changed)).to_spec()  # type: ignore[arg-type]


def test_a_broker_has_somebody_to_ask_it_and_a_deployment_one_broker() -> None:
    kinds = "`triton`, `cpp`, `python`, `llm` or `embedding`"
    with pytest.raises(SpecError, match=f"has nobody to ask it: the application has no {kinds}"):
        spec(RAY, BrokerDeployment("queue")).to_spec()
    with pytest.raises(SpecError, match=r"`chat` has the broker deployments\[1\] already"):
        spec(CHAT, BrokerDeployment("one"), BrokerDeployment("two", before=["chat"])).to_spec()
    spec(CHAT, READER, BrokerDeployment("one", before=["chat"]), BrokerDeployment("two", before=["reader"])).to_spec()


def test_a_broker_for_all_is_one_for_those_who_ask() -> None:
    made = spec(DIGITS, FAST, RAY, CHAT, READER, VECTORS, BrokerDeployment("queue")).to_spec()
    asking = ["digits", "fast", "chat", "reader", "vectors"]
    assert list(pulled_deployments(made)) == asking
    named = with_pulled(made.deployments[6], made)
    assert list(named.broker.before) == asking
    assert list(made.deployments[6].broker.before) == [], "the spec stays as it is"
    assert with_pulled(named, made) is named
    assert with_pulled(made.deployments[1], made) is made.deployments[1]
    assert takes([], "chat")
    assert takes(["chat"], "chat")
    assert not takes(["chat"], "reader")
