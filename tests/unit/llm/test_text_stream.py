"""Tokens → text in pieces, against the text of all tokens at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.errors import InvalidArgument
from serving.llm.text_stream import TextStream

# A byte-level vocabulary: single bytes, pieces that cross characters, whole words, and a special token (no text).
PIECES = [bytes([value]) for value in range(256)] + [
    "né".encode()[:2],
    "é!".encode()[1:],
    b"END",
    b" the",
    b"\xf0\x9f",
    b"",
]
SPECIAL = len(PIECES) - 1
TEXTS = st.text(alphabet="abEND é你🙂\ufffd", max_size=40)


def decode(tokens: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in tokens).decode("utf-8", "replace")


def in_bytes(text: str) -> list[int]:
    return list(text.encode())


def cut(text: str, stop: Sequence[str]) -> str:
    for end in range(1, len(text) + 1):
        ended = [word for word in stop if text[:end].endswith(word)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


def portions(tokens: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    places = sorted({0, len(tokens), *(place % (len(tokens) + 1) for place in cuts)})
    return [list(tokens[a:b]) for a, b in itertools.pairwise(places)]


def streamed(parts: Sequence[Sequence[int]], stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(decode, stop)
    return [*(stream.push(part) for part in parts), stream.finish()]


@given(
    st.one_of(st.lists(st.integers(0, SPECIAL), max_size=200), TEXTS.map(in_bytes)),
    st.lists(st.integers(0, 400), max_size=200),
    st.lists(st.text(alphabet="abEND é🙂\ufffd", min_size=1, max_size=5), max_size=3),
)
@settings(max_examples=600)
@example(in_bytes("xabcd"), [1, 2, 3, 4], ["abcd", "bc"])
@example(in_bytes("ababac"), [1, 2, 3, 4, 5], ["abac"])
@example([0x80] * 300, list(range(300)), [])
@example([0xF0, 0x9F] * 150, list(range(300)), [])
def test_the_pieces_together_are_the_text_cut_at_the_first_stop_string(
    tokens: list[int], cuts: list[int], stop: list[str]
) -> None:
    assert "".join(streamed(portions(tokens, cuts), stop)) == cut(decode(tokens), stop)


@given(TEXTS, st.lists(st.integers(0, 400), max_size=60))
def test_no_piece_holds_half_a_character(text: str, cuts: list[int]) -> None:
    text = text.replace("\ufffd", "")
    pieces = streamed(portions(in_bytes(text), cuts))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.sampled_from(["a", "E", "N", "D", "é"]), max_size=40))
def test_no_piece_holds_a_part_of_the_stop_string(letters: list[str]) -> None:
    stream = TextStream(decode, ["END"])
    shown = ""
    for letter in letters:
        shown += stream.push(in_bytes(letter))
        assert not (cut("".join(letters), ["END"]) != "".join(letters) and len(shown) > "".join(letters).index("END"))
        assert "".join(letters).startswith(shown)
    shown += stream.finish()
    assert shown == cut("".join(letters), ["END"])


def test_text_comes_as_soon_as_it_is_certain() -> None:
    stream = TextStream(decode, ["END"])
    assert [stream.push([token]) for token in in_bytes("é EN!")] == ["", "é", " ", "", "", "EN!"]
    assert [stream.push([token]) for token in in_bytes("aEND")] == ["a", "", "", ""]
    assert stream.stopped_by == "END"
    assert stream.push(in_bytes("more")) == ""
    assert stream.finish() == ""


def test_half_a_character_at_the_end_is_shown_when_no_more_comes() -> None:
    stream = TextStream(decode)
    assert stream.push([ord("a"), 0xC3]) == "a"
    assert stream.finish() == "\ufffd"


def test_what_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(decode, ["END"])
    assert stream.push(in_bytes("the EN")) == "the "
    assert stream.finish() == "EN"
    assert stream.stopped_by is None


def test_what_is_decoded_again_does_not_grow_with_the_text() -> None:
    longest = 0

    def counted(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return decode(tokens)

    stream = TextStream(counted)
    text = "".join(stream.push([token]) for token in in_bytes("é🙂你 the" * 500)) + stream.finish()
    assert text == "é🙂你 the" * 500
    assert longest <= 64


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="a stop string is empty"):
        TextStream(decode, ["a", ""])
