"""Semantic caches in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import pytest

from serving import Application, LlmDeployment, Rollout, SemanticCacheDeployment
from serving.errors import SpecError
from serving.sdk import Artifact, Autoscaling, parse_spec
from serving.sdk.spec import Deployment

WEIGHTS = Artifact("file:///chat.tar", "sha256:" + "a" * 64)
CHAT = LlmDeployment("chat", WEIGHTS)
FULL = f"""
name: app
deployments:
  - name: chat
    llm:
      weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}
  - name: cache
    semantic_cache:
      before: [chat]
      threshold: 0.9
      error_bound: 0.01
      ttl: 2h
      max_entries: 5000
      max_bytes: 1Gi
      max_answer_bytes: 64Ki
      evict: lfu
      max_temperature: 0
      per_user: true
      without_guards: [content]
      path: /var/cache/mesh
      threads: 2
"""


def spec(*deployments: Deployment) -> Application:
    return Application("app", deployments)


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(FULL).to_spec()
    made = SemanticCacheDeployment(
        "cache",
        before=["chat"],
        threshold=0.9,
        error_bound=0.01,
        ttl="2h",
        max_entries=5000,
        max_bytes="1Gi",
        max_answer_bytes=65536,
        evict="lfu",
        max_temperature=0.0,
        per_user=True,
        without_guards=["content"],
        path="/var/cache/mesh",
        threads=2,
    )
    assert read == spec(CHAT, made).to_spec()
    cache = read.deployments[1].semantic_cache
    assert (cache.ttl_s, cache.max_bytes, cache.HasField("max_temperature")) == (7200, 1 << 30, True)


def test_what_is_usual_is_not_stored() -> None:
    plain = spec(CHAT, SemanticCacheDeployment("cache")).to_spec()
    assert plain.deployments[1].WhichOneof("kind") == "semantic_cache"
    assert plain.deployments[1].semantic_cache.ListFields() == []


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"before": ["chta"]}, r"before\[0\]: `chta` is no `llm` deployment"),
        ({"before": ["cache"]}, r"before\[0\]: `cache` is no `llm` deployment"),
        ({"before": ["chat", "chat"]}, "twice|more than once|already"),
        ({"threshold": 0}, "threshold: 0 is not above 0"),
        ({"threshold": 1.1}, "threshold: 1.1 is not above 0"),
        ({"threshold": float("nan")}, "threshold"),
        ({"error_bound": 1.0}, "error_bound: 1 is not between"),
        ({"ttl": -5}, "ttl"),
        ({"max_entries": -1}, "max_entries: -1 is out of range"),
        ({"max_bytes": "2000Ti"}, "max_bytes"),
        ({"evict": "fifo"}, r"evict: `fifo` is not known \(allowed: lru, lfu\)"),
        ({"max_temperature": 3}, "max_temperature: 3 is not between"),
        ({"without_guards": ["taste"]}, r"without_guards\[0\]: `taste` is not known"),
        ({"path": "here"}, "path: `here` is not the absolute path"),
        ({"threads": 1000}, "threads: 1000 is out of range"),
        ({"per_user": "yes"}, "per_user: expects true or false"),
        ({"replicas": 2}, "replicas: of `semantic_cache` is 1"),
        ({"autoscaling": Autoscaling(target_ongoing=1)}, "autoscaling: is not supported with `semantic_cache`"),
        ({"rollout": Rollout(max_surge=2)}, "rollout: is always the same with `semantic_cache`"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(changed: dict[str, object], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        spec(CHAT, SemanticCacheDeployment("cache", **changed)).to_spec()  # type: ignore[arg-type]


def test_a_model_has_one_cache_and_a_cache_a_model() -> None:
    with pytest.raises(SpecError, match="stands before nothing"):
        spec(SemanticCacheDeployment("cache")).to_spec()
    with pytest.raises(SpecError, match=r"`chat` has the cache deployments\[1\] already"):
        spec(CHAT, SemanticCacheDeployment("one"), SemanticCacheDeployment("two", before=["chat"])).to_spec()
    other = LlmDeployment("other", WEIGHTS, model="other")
    caches = (SemanticCacheDeployment("one", before=["chat"]), SemanticCacheDeployment("two", before=["other"]))
    spec(CHAT, other, *caches).to_spec()
