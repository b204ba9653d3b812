"""W3C trace context."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from serving.discovery.client_trace import child_of

FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def test_a_child_keeps_trace_and_flags() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    child = child_of(parent)
    assert (child[:36], child[-2:]) == (parent[:36], "01")
    assert child[36:52] != parent[36:52]


@given(st.text())
def test_without_a_valid_parent_a_new_unsampled_trace_begins(text: str) -> None:
    made = child_of(text)
    assert FORM.fullmatch(made)
    assert made.endswith("-00")


def test_all_zero_is_no_trace() -> None:
    assert "0" * 32 not in child_of("00-" + "0" * 32 + "-b7ad6b7169203331-01")
