"""How many values a body may have, whatever stands in its texts; and that reading a large one lets others go on."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.errors import BodyTooLarge, InvalidRequest
from serving.openai.json_body import MAX_CONTAINERS, MAX_VALUES, read_object, read_object_apart

LIMIT = 64 << 20


def body(unit: bytes, count: int) -> bytes:
    return b'{"a":[' + b",".join([unit] * count) + b"]}"


@pytest.mark.parametrize("unit", [b"1", b"-1.5e3", b"null", b'""', b'"\\\\"', b'"\\""', b'"[{,"'])
def test_values_are_counted_outside_of_texts(unit: bytes) -> None:
    assert len(read_object(body(unit, MAX_VALUES - 10), limit_bytes=LIMIT)["a"]) == MAX_VALUES - 10
    with pytest.raises(BodyTooLarge, match=f"{MAX_VALUES} values"):
        read_object(body(unit, MAX_VALUES + 1), limit_bytes=LIMIT)


@pytest.mark.parametrize("unit", [b"[]", b"{}"])
def test_containers_are_counted_apart(unit: bytes) -> None:
    assert len(read_object(body(unit, MAX_CONTAINERS - 2), limit_bytes=LIMIT)["a"]) == MAX_CONTAINERS - 2
    with pytest.raises(BodyTooLarge, match=f"{MAX_CONTAINERS} arrays"):
        read_object(body(unit, MAX_CONTAINERS), limit_bytes=LIMIT)


def test_a_text_may_hold_anything() -> None:
    text = 'a, [b], {c}, "d" \\ ' * 400_000
    assert read_object(json.dumps({"a": text}).encode(), limit_bytes=LIMIT) == {"a": text}
    with pytest.raises(InvalidRequest, match="not JSON"):
        read_object(b'{"a": "' + b"[" * 100_000, limit_bytes=LIMIT)


@given(st.lists(st.text(alphabet='"\\,[]{}a'), min_size=1, max_size=20))
def test_texts_end_where_json_ends_them(texts: list[str]) -> None:
    data = json.dumps({"a": [*texts, "," * (MAX_CONTAINERS + 1)]}).encode()  # so many that it looks closer
    assert read_object(data, limit_bytes=LIMIT)["a"][:-1] == texts


@pytest.mark.parametrize("unit", [b"12345", b'"",""', b"[]"])
async def test_other_work_goes_on_meanwhile(unit: bytes) -> None:
    """Eight megabytes of values took eight seconds on the loop; what is allowed now, and what is refused, is short."""
    waits: list[float] = []
    reading = asyncio.ensure_future(read_object_apart(body(unit, (8 << 20) // (len(unit) + 1)), limit_bytes=LIMIT))
    while not reading.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - began)
    with pytest.raises(BodyTooLarge):
        await reading
    assert sorted(waits)[len(waits) // 2] < 1, waits
