"""Calls are cut out of texts, and every way to cut the text gives the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.llm.tool_calls import CallPiece, TextPiece, ToolCallParser

NAMES = ("get_weather", "f")


def cut(parts: Sequence[str], *, inside: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """The content, and the calls with their arguments."""
    parser = ToolCallParser(NAMES, inside=inside)
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.finish()
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
    calls: list[list[str]] = []
    for piece in pieces:
        if isinstance(piece, CallPiece) and piece.name is not None:
            assert piece.index == len(calls)
            calls.append([piece.name, piece.arguments])
        elif isinstance(piece, CallPiece):
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.arguments
    assert parser.calls == len(calls)
    return text, [(name, arguments) for name, arguments in calls]


OSLO = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
ARGUMENTS = '{"city": "Oslo"}'

CASES: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("", "", []),
    ("Hello.", "Hello.", []),
    ("  \n ", "  \n ", []),
    (" Hello. ", " Hello. ", []),
    (OSLO, "", [("get_weather", ARGUMENTS)]),
    ("\n" + OSLO + "\n", "", [("get_weather", ARGUMENTS)]),
    ("Let me see.\n" + OSLO, "Let me see.\n", [("get_weather", ARGUMENTS)]),
    (OSLO + "\n" + OSLO, "", [("get_weather", ARGUMENTS)] * 2),
    (OSLO + " Done.", " Done.", [("get_weather", ARGUMENTS)]),
    ('<tool_call>{"name":"f","arguments":{}}</tool_call>', "", [("f", "{}")]),
    ('<tool_call>{"name":"f","parameters":{"a":[{}]}}</tool_call>', "", [("f", '{"a":[{}]}')]),
    ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
    ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (
        '<tool_call>{"name": "f", "arguments": {"a": "}]\\"</tool_call>"}}</tool_call>',
        "",
        [("f", '{"a": "}]\\"</tool_call>"}')],
    ),
    # Cut in the middle of the arguments, which is a call all the same.
    ('<tool_call>{"name": "f", "arguments": {"a": "Os', "", [("f", '{"a": "Os')]),
    ('<tool_call>{"name": "f", "arguments": {', "", [("f", "{")]),
    ('<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
    # No calls: they stay as they are.
    ("<tool_call>hello</tool_call>", "<tool_call>hello</tool_call>", []),
    ("a <tool_call>hello</tool_call> b", "a <tool_call>hello</tool_call> b", []),
    (" <tool_call>[]</tool_call> b", " <tool_call>[]</tool_call> b", []),
    ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', None, []),  # type: ignore[list-item]
    ('<tool_call>{"name": "f", "arguments": "text"}</tool_call>', None, []),  # type: ignore[list-item]
    ('<tool_call>{"name": 5, "arguments": {}}</tool_call>', None, []),  # type: ignore[list-item]
    ('<tool_call>{"name": "f", "argu', None, []),  # type: ignore[list-item]
    ("<tool_call>", None, []),  # type: ignore[list-item]
    ("a <tool_ca", None, []),  # type: ignore[list-item]
    ("<tool_call><tool_call>x</tool_call>", None, []),  # type: ignore[list-item]
    ("</tool_call> a < b", None, []),  # type: ignore[list-item]
    ("<tool_call>no</tool_call>" + OSLO, "<tool_call>no</tool_call>", [("get_weather", ARGUMENTS)]),
]


@pytest.mark.parametrize(("text", "content", "calls"), CASES)
def test_what_is_cut_out(text: str, content: str | None, calls: list[tuple[str, str]]) -> None:
    wanted = (text if content is None else content, calls)
    assert cut([text]) == wanted
    assert cut(list(text)) == wanted


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ('{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        ('{"name": "f"}', "", [("f", "{}")]),
        ("no", "no", []),
        ('{"name": "f", "arguments": {}}\n</tool_call>' + OSLO, "", [("f", "{}"), ("get_weather", ARGUMENTS)]),
    ],
)
def test_a_call_that_began_in_the_prompt(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert cut([text], inside=True) == (content, calls)
    assert cut(list(text), inside=True) == (content, calls)


PIECES = st.sampled_from(
    [
        OSLO, "<tool_call>", "</tool_call>", "<tool", "_call>", '{"name": "f", ', '"arguments": ', "{", "}", '"', "\\",
        "\n", " ", "text", '{"name": "f", "arguments": {}}', "[", "]", ",", "é", "😀",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12), st.data(), st.booleans())
def test_any_cut_gives_the_same(pieces: list[str], data: st.DataObject, inside: bool) -> None:
    text = "".join(pieces)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    whole = cut([text], inside=inside)
    assert cut(parts, inside=inside) == whole
    assert cut(list(text), inside=inside) == whole
    if not whole[1]:
        assert whole[0] == text  # nothing is lost where nothing was called


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=5), VALUES, max_size=3)), max_size=3)
)
def test_calls_that_are_written_are_read(calls: list[tuple[str, dict[str, Any]]]) -> None:
    written = [json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls]
    text = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)
    content, read = cut(list(text))
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in read] == calls


def test_the_name_comes_first_and_arguments_while_they_are_written() -> None:
    parser = ToolCallParser(NAMES)
    told: list[Any] = []
    for character in OSLO:
        told.append(parser.push(character))
    named = next(index for index, pieces in enumerate(told) if pieces)
    assert told[named] == [CallPiece(0, "get_weather", ""), CallPiece(0, None, "{")]
    assert OSLO[: named + 1].endswith('"arguments": {')
    assert [piece.arguments for pieces in told[named + 1 :] for piece in pieces] == list(ARGUMENTS[1:])
    assert parser.finish() == []
    assert parser.closed == 1
