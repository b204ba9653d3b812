"""Names of models at the edge: what clients may say, and what becomes of names that several applications use."""

from __future__ import annotations

import pytest

from serving._proto import records_pb2 as pb
from serving.errors import InvalidArgument, NotFound
from serving.gateway.catalog import Catalog, ModelKey, is_ready
from serving.types import PROTOCOL_KSERVE_GRPC, PROTOCOL_OPENAI_HTTP, PROTOCOL_SEMANTIC_CACHE_HTTP


def endpoint(
    model: str, *, app: str = "app", namespace: str = "default", protocol: str = PROTOCOL_OPENAI_HTTP, **fields: str
) -> pb.Endpoint:
    values = {"id": f"{app}-r1-0", "address": "127.0.0.1:1", "state": "ready", "role": "direct", **fields}
    return pb.Endpoint(
        protocol=protocol, namespace=namespace, application=app, models=[pb.ModelRecord(name=model)], **values
    )


def test_a_model_is_known_by_each_of_its_names() -> None:
    catalog = Catalog([endpoint("chat")])
    key = ModelKey("default", "app", "chat")
    assert [catalog.find(name).key for name in ("chat", "app/chat", "default/app/chat")] == [key] * 3
    assert [offer.name for offer in catalog.offers()] == ["chat"]


def test_replicas_of_one_application_are_one_offer() -> None:
    catalog = Catalog([endpoint("chat", id="a"), endpoint("chat", id="b")])
    assert [one.id for one in catalog.find("chat").endpoints] == ["a", "b"]


def test_a_name_of_two_applications_must_be_said_in_full() -> None:
    catalog = Catalog([endpoint("chat", app="one"), endpoint("chat", app="two")])
    with pytest.raises(InvalidArgument, match=r"several applications; ask for one of default/one/chat, default/two"):
        catalog.find("chat")
    assert catalog.find("two/chat").key.application == "two"
    assert [offer.name for offer in catalog.offers()] == ["one/chat", "two/chat"]


def test_applications_of_one_name_in_two_namespaces() -> None:
    catalog = Catalog([endpoint("chat", namespace="a"), endpoint("chat", namespace="b")])
    assert [offer.name for offer in catalog.offers()] == ["a/app/chat", "b/app/chat"]
    with pytest.raises(InvalidArgument):
        catalog.find("app/chat")


def test_a_models_own_slashes_win_over_an_applications_name() -> None:
    catalog = Catalog([endpoint("meta/llama", app="hub"), endpoint("llama", app="meta")])
    assert catalog.find("meta/llama").key == ModelKey("default", "hub", "meta/llama")
    assert catalog.find("default/meta/llama").key == ModelKey("default", "meta", "llama")
    for offer in catalog.offers():
        assert catalog.find(offer.name) == offer


def test_what_is_not_there() -> None:
    catalog = Catalog([endpoint("tiny-chat"), endpoint("digits", protocol=PROTOCOL_KSERVE_GRPC)])
    with pytest.raises(
        NotFound, match=r"`tiny-chta` does not exist; did you mean `tiny-chat`\? \(there are: tiny-chat\)"
    ):
        catalog.find("tiny-chta")
    with pytest.raises(NotFound):
        catalog.find("digits")
    with pytest.raises(NotFound, match=r"`x` does not exist$"):
        Catalog().find("x")


def test_only_the_namespaces_that_are_asked_for() -> None:
    catalog = Catalog([endpoint("one", namespace="a"), endpoint("two", namespace="b")], namespaces=("b",))
    assert [str(offer.key) for offer in catalog.offers()] == ["b/app/two"]


def test_proxies_are_no_replicas() -> None:
    """They speak the same protocol, and ask the replicas."""
    assert Catalog([endpoint("chat", role="proxy")]).offers() == ()


def test_readiness() -> None:
    leaving = endpoint("chat", state="draining")
    assert not is_ready(Catalog([leaving]).find("chat"))
    assert is_ready(Catalog([leaving, endpoint("chat", id="b")]).find("chat"))


def test_whoever_may_not_ask_all_models() -> None:
    """Others neither make a name ambiguous nor are named; one that alone has the name is found, to be refused."""
    catalog = Catalog([endpoint("m", app="one"), endpoint("xyz", app="one"), endpoint("m", app="two")])
    assert catalog.find("m", lambda key: key.application == "two").key.application == "two"
    assert catalog.find("xyz", lambda key: key.application == "two").key.application == "one"
    with pytest.raises(NotFound) as unknown:
        catalog.find("xyzz", lambda key: key.application == "two")
    assert "xyz`" not in unknown.value.message.replace("`xyzz`", "")
    assert "two/m" in unknown.value.message


def cache(
    *before: str, app: str = "app", namespace: str = "default", revision: int = 1, state: str = "ready"
) -> pb.Endpoint:
    return pb.Endpoint(
        id=f"cache-r{revision}-0", address="127.0.0.1:2", state=state, protocol=PROTOCOL_SEMANTIC_CACHE_HTTP,
        namespace=namespace, application=app, before=before, revision=revision,
    )  # fmt: skip


def test_a_cache_stands_before_the_models_of_its_application() -> None:
    models = [endpoint("a", deployment="one"), endpoint("b", deployment="two"), endpoint("a", app="other")]
    catalog = Catalog([*models, cache("one")])
    assert [(str(offer.key), bool(offer.cache)) for offer in catalog.offers()] == [
        ("default/app/a", True),
        ("default/app/b", False),
        ("default/other/a", False),
    ]
    assert all(offer.cache for offer in Catalog([*models[:2], cache()]).offers())
    assert len(catalog.caches) == 1
    assert Catalog([cache(namespace="x")], ["y"]).caches == ()


def test_a_model_of_two_deployments_has_a_cache_that_stands_before_both() -> None:
    both = [endpoint("a", deployment="one", id="1"), endpoint("a", deployment="two", id="2")]
    assert Catalog([*both, cache("one")]).find("a").cache is None
    assert Catalog([*both, cache("one", "two")]).find("a").cache is not None


def test_the_newest_ready_cache_is_asked() -> None:
    caches = [cache(revision=3), cache(revision=2), cache(revision=4, state="draining")]
    catalog = Catalog([endpoint("a"), *caches])
    found = catalog.find("a").cache
    assert found is not None
    assert found.revision == 3
    assert len(catalog.caches) == 3
