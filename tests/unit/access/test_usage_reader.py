"""What an answer cost, however it says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.keys.usage import UsageReader
from serving.openai.usage import usage_of
from serving.openai.usage_report import comment, header_text, tokens_in, without_comment
from serving.wire import ClientGone

USAGE = usage_of(7, 5, 0)
CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


def reader(status: int = 200, **headers: str) -> UsageReader:
    made = UsageReader(100)
    made.begin(status, {name.replace("_", "-"): value for name, value in headers.items()})
    return made


def test_a_header_says_it() -> None:
    assert reader(x_mesh_usage=header_text(USAGE)).tokens == 12


def test_a_comment_says_it_and_is_not_passed_on() -> None:
    usage = reader()
    assert usage.events(CHUNK + CHUNK) == CHUNK + CHUNK
    assert usage.events(CHUNK + comment(USAGE) + DONE) == CHUNK + DONE
    assert usage.tokens == 12
    assert reader().events(comment(USAGE)) == b""


@given(st.lists(st.sampled_from([CHUNK, DONE, b": keep-alive\n\n", b"event: x\ndata: 1\n\n"])), st.integers(0, 8))
def test_only_the_comment_is_taken_out(events: list[bytes], place: int) -> None:
    there = [*events[:place], comment(USAGE), *events[place:]]
    assert without_comment(b"".join(there)) == (
        b"".join(events),
        json.dumps(USAGE_SHORT, separators=(",", ":")).encode(),
    )
    assert without_comment(b"".join(events)) == (b"".join(events), b"")


USAGE_SHORT = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_other_servers_say_it_in_the_answer() -> None:
    usage = reader()
    body = json.dumps({"choices": [{"message": {"content": '"usage": {"total_tokens": 9}'}}], "usage": USAGE}).encode()
    for start in range(0, len(body), 7):
        usage.body(body[start : start + 7])
    assert usage.tokens == 12
    usage = reader()
    usage.events(CHUNK + b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n" + DONE)
    assert usage.tokens == 12
    usage = reader()
    usage.events(b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":3,"output_tokens":4}}}\n\n')
    assert usage.tokens == 7


def test_a_stream_that_is_cut_off_costs_its_prompt_and_its_events() -> None:
    usage = reader()
    usage.events(CHUNK * 3)
    assert usage.tokens == 103


def test_what_fails_costs_nothing() -> None:
    usage = reader(500)
    usage.body(json.dumps({"usage": USAGE}).encode())
    assert usage.tokens == 0
    assert UsageReader(100).tokens == 0


def test_a_client_that_goes_away_pays_for_its_prompt() -> None:
    usage = UsageReader(100)
    with pytest.raises(ClientGone), usage.until_gone():
        raise ClientGone("gone")
    assert usage.tokens == 100


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[]", b"{", b"{}", b'{"total_tokens": -1}', b'{"total_tokens": "9"}', b"\xff", b"1e999"]
)
def test_what_is_no_usage(text: bytes) -> None:
    assert tokens_in(text) is None


def test_a_continuation_that_fails_does_not_make_free_what_was_answered() -> None:
    usage = UsageReader(10)
    usage.begin(200, {})
    usage.events(b'data: {"n": 1}\n\n')
    usage.begin(503, {})
    assert usage.tokens == 11
