"""The text of a key, what a key may ask, and what a request may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.access.api_key import is_secret, new_key, read_key, secret_hash
from serving.access.directory import prefer_later
from serving.access.estimate import answer_tokens, prompt_tokens
from serving.gateway.catalog import ModelKey
from serving.gateway.config import GatewayConfig, from_mapping
from serving.gateway.keys.gate import Gate
from serving.store.records import encode
from serving.store.types import KeyValue

MODEL = ModelKey("team", "chat", "tiny")


def test_a_key_is_read_as_it_was_made() -> None:
    made, other = new_key(), new_key()
    assert read_key(made.text().encode()) == made
    assert made.secret != other.secret
    assert is_secret(made.secret, secret_hash(made.secret))
    assert not is_secret(other.secret, secret_hash(made.secret))
    assert made.secret not in repr(made)


@given(st.binary(max_size=200))
def test_any_bytes_are_read(text: bytes) -> None:
    assert read_key(text) is None


def test_a_deleted_key_has_no_secret() -> None:
    assert not is_secret("", "")


@pytest.mark.parametrize(
    ("models", "namespaces", "may"),
    [
        ([], [], True),
        (["tiny"], [], True),
        (["chat/*"], [], True),
        (["team/chat/tiny"], [], True),
        (["other/*", "t?ny"], ["team"], True),
        (["Tiny"], [], False),
        (["tin"], [], False),
        ([], ["other"], False),
        (["*"], ["other", "team"], True),
    ],
)
def test_what_a_key_may_ask(models: list[str], namespaces: list[str], may: bool) -> None:
    assert Gate.may_ask(pb.ApiKey(models=models, namespaces=namespaces), MODEL) is may


def test_what_a_request_may_cost() -> None:
    assert [prompt_tokens(size) for size in (0, 1, 4, 5, 4000)] == [1, 1, 1, 2, 1000]
    assert [answer_tokens(limit, choices) for limit, choices in ((5, 1), (7, 3), (None, 2), (0, 1))] == [5, 21, 512, 0]


def entry(version: int) -> KeyValue:
    return KeyValue("/mesh/v1/keys/x", encode(pb.ApiKey(id="x", version=version)), 1, 1, 1, 0)


def test_an_older_store_takes_nothing_back() -> None:
    old, new = entry(1), entry(2)
    assert prefer_later(new, old) is new
    assert prefer_later(old, new) is new
    damaged = KeyValue("/mesh/v1/keys/x", b"rubbish", 1, 1, 1, 0)
    assert prefer_later(old, damaged) is old


@pytest.mark.parametrize(
    ("listen", "said", "required"),
    [
        ("127.0.0.1:0", None, False),
        ("localhost:8000", None, False),
        ("[::1]:8000", None, False),
        ("0.0.0.0:8000", None, True),
        ("[::]:8000", None, True),
        ("gateway.example:8000", None, True),
        ("0.0.0.0:8000", False, False),
        ("127.0.0.1:0", True, True),
    ],
)
def test_who_needs_a_key(listen: str, said: bool | None, required: bool) -> None:
    values = {"etcd": {"endpoints": ["127.0.0.1:1"]}, "listen": listen, "require_keys": said}
    config: GatewayConfig = from_mapping(values, "test")
    assert config.keys_required is required
