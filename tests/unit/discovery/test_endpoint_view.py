"""Which records make the view."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.discovery.view import EndpointDecoder, EndpointView, current, prefer_newer
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import encode
from serving.store.types import KeyValue

APP = AppKey("default", "digits")


def endpoint(endpoint_id: str = "a", **fields: object) -> pb.Endpoint:
    values: dict[str, object] = {
        "id": endpoint_id,
        "address": "127.0.0.1:8001",
        "role": "direct",
        "namespace": APP.namespace,
        "application": APP.name,
        "deployment": "net",
        "state": "ready",
        "generation": 1,
        "revision": 1,
    }
    return pb.Endpoint(**{**values, **fields})  # type: ignore[arg-type]


def kv(record: pb.Endpoint, value: bytes | None = None) -> KeyValue:
    key = keys.endpoint(APP, record.role, record.deployment, record.id)
    return KeyValue(key, encode(record) if value is None else value, 1, 1, 1, 0)


def decoded(decoder: EndpointDecoder, *kvs: KeyValue) -> list[str]:
    return [item.id for item in decoder.decode({item.key: item for item in kvs}).values()]


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": ""},
        {"address": "nowhere"},
        {"address": "host:0"},
        {"address": "host:99999"},
        {"state": "starting"},
        {"namespace": "other"},
        {"application": "other"},
    ],
)
def test_unusable_records_are_ignored_and_said_once(wrong: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    decoder = EndpointDecoder(APP)
    bad = kv(endpoint("bad", **wrong))
    for _ in range(3):
        assert decoded(decoder, kv(endpoint("good")), bad) == ["good"]
    assert caplog.messages == ["endpoint record ignored"]
    assert vars(caplog.records[0])["store_key"] == bad.key
    assert decoded(decoder, kv(endpoint("bad"))) == ["bad"]  # repaired


def test_a_record_under_another_key_is_ignored() -> None:
    moved = kv(endpoint("a"))
    assert decoded(EndpointDecoder(APP), KeyValue(moved.key + "x", moved.value, 1, 1, 1, 0)) == []


@given(st.binary(max_size=50))
def test_rubbish_never_reaches_the_view(value: bytes) -> None:
    logging.disable(logging.WARNING)
    try:
        assert decoded(EndpointDecoder(APP), kv(endpoint("a"), value), kv(endpoint("b"))) == ["b"]
    finally:
        logging.disable(logging.NOTSET)


endpoints = st.lists(
    st.builds(
        lambda number, deployment, generation, state: endpoint(
            f"e{number}", deployment=deployment, generation=generation, state=state
        ),
        st.integers(0, 99),
        st.sampled_from(["x", "y"]),
        st.integers(0, 3),
        st.sampled_from(["ready", "draining"]),
    ),
    max_size=12,
)


@given(endpoints)
def test_older_generations_are_hidden_by_ready_newer_ones_only(listed: list[pb.Endpoint]) -> None:
    kept = current(listed)
    for item in listed:
        newer = any(
            other.deployment == item.deployment and other.state == "ready" and other.generation > item.generation
            for other in listed
        )
        assert (item in kept) == (not newer)
    assert current(kept) == kept
    ready = {item.deployment for item in listed if item.state == "ready"}
    assert {item.deployment for item in kept if item.state == "ready"} == ready  # nobody is left without


def test_the_ready_ones_take_new_work() -> None:
    view = EndpointView(endpoints=(endpoint("a"), endpoint("b", state="draining")))
    assert [item.id for item in view.ready] == ["a"]


@pytest.mark.parametrize(
    ("old", "new", "remembered"),
    [
        ({"generation": 2}, {"generation": 1}, True),
        ({"generation": 1, "revision": 3}, {"generation": 1, "revision": 2}, True),
        ({"generation": 1, "revision": 9}, {"generation": 2, "revision": 1}, False),
        ({}, {"address": "127.0.0.1:9"}, False),
    ],
)
def test_an_older_store_does_not_bring_back_an_older_record(
    old: dict[str, int], new: dict[str, int], remembered: bool
) -> None:
    before, after = kv(endpoint("a", **old)), kv(endpoint("a", **new))
    assert (prefer_newer(before, after) is before) is remembered
    assert prefer_newer(before, kv(endpoint(), b"rubbish")).value == b"rubbish"
