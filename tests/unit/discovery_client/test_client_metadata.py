"""Metadata that gRPC cannot carry is refused by name before it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from serving.discovery.client_metadata import prepared
from serving.discovery.client_peers import value_of
from serving.errors import InvalidArgument


def test_what_gRPC_carries_is_kept_and_traced() -> None:  # noqa: N802
    given = (("tenant", "a b"), ("token-bin", b"\xff"))
    made = prepared(given)
    assert tuple(made[:2]) == given
    assert made[2][0] == "traceparent"
    traced = (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),)
    assert prepared(traced) == traced


def test_the_first_value_of_a_name_counts() -> None:
    metadata = (("tenant", "t"), ("user", "one"), ("user", "two"))
    assert value_of(metadata, "user") == "one"
    assert value_of(metadata, "nobody") == ""


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (("Upper", "x"), "'Upper' is not a name"),
        (("a b", "x"), "'a b' is not a name"),
        (("", "x"), "'' is not a name"),
        ((5, "x"), "5 is not a name"),
        (("grpc-timeout", "x"), "'grpc-timeout' is not a name"),
        (("x", "ü"), "metadata x expects a text of printable ASCII"),
        (("x", b"x"), "metadata x expects a text"),
        (("x", 5), "metadata x expects a text"),
        (("x", "a\nb"), "metadata x expects a text"),
        (("x-bin", "x"), "metadata x-bin expects bytes"),
    ],
)
def test_what_it_cannot_carry(entry: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        prepared((entry,))
