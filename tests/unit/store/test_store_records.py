"""Records in canonical JSON, and the pure parts of keys and ranges."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss, InvalidArgument
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode, encode
from serving.store.types import prefix_end

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


def test_a_record_is_one_line_of_json_that_a_person_can_read() -> None:
    data = encode(pb.StoredSpec(revision=12, uid="é", spec=pb.ApplicationSpec(namespace="default", name="digits")))
    assert b"\n" not in data
    assert json.loads(data) == {"revision": "12", "uid": "é", "spec": {"namespace": "default", "name": "digits"}}
    assert "é".encode() in data


@given(st.dictionaries(names, names, max_size=6), st.integers(0, 2**62), names)
def test_encode_and_decode_are_inverse_and_deterministic(labels: dict[str, str], generation: int, name: str) -> None:
    endpoint = pb.Endpoint(id=name, labels=labels, generation=generation)
    shuffled = pb.Endpoint(id=name, labels=dict(reversed(labels.items())), generation=generation)
    assert decode(pb.Endpoint, encode(endpoint)) == endpoint
    assert encode(endpoint) == encode(shuffled)


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert decode(pb.Endpoint, b'{"id": "a", "colour": "red", "inFuture": {"x": [1]}}') == pb.Endpoint(id="a")


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", b"[]", b"null1", b'{"generation": "x"}', b"\xff\xfe", b"[" * 100_000]
)
def test_rubbish_is_data_loss(data: bytes) -> None:
    with pytest.raises(DataLoss, match=r"mesh\.v1\.Endpoint"):
        decode(pb.Endpoint, data)


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_are_data_loss(data: bytes) -> None:
    try:
        decode(pb.Endpoint, data)
    except DataLoss:
        return


@given(st.binary(min_size=1, max_size=8), st.binary(max_size=8), st.binary(max_size=8))
def test_a_prefix_covers_exactly_the_keys_that_start_with_it(prefix: bytes, rest: bytes, other: bytes) -> None:
    if not prefix.rstrip(b"\xff"):
        with pytest.raises(InvalidArgument):
            prefix_end(prefix)
        return
    end = prefix_end(prefix)
    assert prefix <= prefix + rest < end
    assert (prefix <= other < end) == other.startswith(prefix)


@given(names, names, names, st.integers(1, 10**9))
def test_keys_are_parsed_as_they_are_made(namespace: str, name: str, cluster: str, number: int) -> None:
    app = AppKey(namespace, name)
    assert keys.parse_app(keys.spec(app)) == (app, "spec")
    assert keys.parse_app(keys.revision(app, number)) == (app, f"revisions/{number:010d}")
    assert keys.parse_placement(keys.placement(cluster, app)) == (cluster, app)
    assert keys.parse_cluster(keys.cluster(cluster)) == cluster
    assert keys.parse_deleted(keys.deleted(app, "u")) == (app, "u")
    assert keys.parse_cluster(keys.spec(app)) is None
    assert keys.parse_placement(keys.spec(app)) is None


@given(st.lists(st.integers(1, 10**10 - 1), unique=True, max_size=10))
def test_keys_of_revisions_sort_like_the_revisions(numbers: list[int]) -> None:
    app = AppKey("default", "digits")
    by_key = sorted(numbers, key=lambda number: keys.revision(app, number))
    assert by_key == sorted(numbers)
