"""Bodies: what is read, and how precisely what is wrong is named."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.errors import BodyTooLarge, InvalidRequest
from serving.openai.json_body import MAX_DEPTH, read_object

NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def read(data: bytes, limit_bytes: int = 1 << 20) -> dict[str, object]:
    return read_object(data, limit_bytes=limit_bytes)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_every_object_is_read_as_it_is(value: dict[str, object]) -> None:
    assert read(json.dumps(value).encode()) == value
    assert read(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_named_mistake(data: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(read(data), dict)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[]", "an array"),
        (b"null", "null"),
        (b"7", "a number"),
        (b'"x"', "a text"),
        (b"true", "a boolean"),
        (b'{"a": \xff}', "not UTF-8: invalid start byte at byte 6"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "-Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" stands twice'),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": 1} x', "extra data"),
        (b'{"a": 1', "line 1, column 8"),
        (b'\xef\xbb\xbf{"a": 1}', "bom"),
    ],
)
def test_mistakes_are_named(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(data)
    assert words.lower() in caught.value.message.lower()
    assert caught.value.http_status == 400


def test_pairs_of_surrogates_are_characters() -> None:
    assert read(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 2_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(depth: int, opening: str, closing: str) -> None:
    inner = depth - 1  # the body itself is the first level
    with pytest.raises(InvalidRequest, match=f"deeper than {MAX_DEPTH} levels"):
        read(('{"a":' + opening * inner + "1" + closing * inner + "}").encode())


def test_the_deepest_that_is_allowed_is_read() -> None:
    inner = MAX_DEPTH - 1
    assert read(('{"a":' + "[" * inner + "]" * inner + "}").encode())
    assert read(('{"a":[' + "[],{}," * 1000 + "1]}").encode())  # wide is not deep


def test_a_body_above_the_limit_is_413() -> None:
    with pytest.raises(BodyTooLarge, match="100 bytes") as caught:
        read(b'{"a": "' + b"x" * 100 + b'"}', limit_bytes=100)
    assert caught.value.http_status == 413
