"""What a replica tells a gateway that may have to continue its streams elsewhere, and how it continues others'."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.llm.choice import Choice
from serving.llm.engine import TokenEvent
from serving.llm.tool_calls import ToolCallParser
from tests.support.llm_server import LlmServer
from tests.support.scripted_engine import ByteCodec, ScriptedEngine

CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True, "temperature": 0}
TEXT = "Grüße, and a long text behind them."


@pytest.fixture
def server(engine: ScriptedEngine) -> Any:
    engine.say = lambda _: TEXT
    with LlmServer(engine) as running:
        yield running


def ask(server: LlmServer, said: str, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    headers = {"x-mesh-resume": said} if said else {}
    return httpx.post(f"{server.base_url}/{path}", json={**CHAT, **fields}, headers=headers, timeout=30)


def steps(answer: httpx.Response) -> list[Any]:
    return [json.loads(line.removeprefix(": mesh ")) for line in answer.text.splitlines() if line.startswith(":")]


def text_of(answer: httpx.Response) -> str:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line.removeprefix("data: "))["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def usage_of(answer: httpx.Response) -> Any:
    usage = json.loads(answer.text.split("data: ")[-2])["usage"]
    return [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]


def begun_at(told: list[Any], count: int) -> Any:
    tokens = [token for step in told[:count] for token in step["tokens"]]
    return {**told[0]["head"], "tokens": tokens, "finish": told[count - 1].get("finish")}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, True),
        ({"temperature": 1, "seed": 3}, True),
        ({"temperature": 1}, False),
        ({"n": 2}, False),
        ({"logprobs": True}, False),
        ({"stream": False}, False),
    ],
)
def test_which_answers_can_be_continued(server: LlmServer, fields: Any, told: bool) -> None:
    answer = ask(server, "tell", **fields)
    assert answer.status_code == 200
    assert (answer.headers.get("x-mesh-resume") == "told", bool(steps(answer))) == (told, told)
    assert not steps(ask(server, "", **fields))
    begun = {"id": "chatcmpl-1", "created": 1, "prompt": "x", "tokens": []}
    refused = ask(server, "continue", mesh_resume=begun, **fields)
    assert refused.status_code == (409 if told else 400)  # of another prompt, or not at all
    assert "x-mesh-ignored" in ask(server, "", mesh_resume=begun, **fields).headers  # who asks for nothing


def test_each_step_is_told_behind_its_events(server: LlmServer) -> None:
    answer = ask(server, "tell")
    told = steps(answer)
    assert bytes(token for step in told for token in step["tokens"]).decode() == TEXT
    assert [step.get("finish") for step in told] == [None] * (len(told) - 1) + ["stop"]
    assert [("head" in step) for step in told] == [True] + [False] * (len(told) - 1)
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_it_goes_on_behind_any_step(server: LlmServer, path: str) -> None:
    options: Any = {
        "path": path,
        "prompt": "hi",
        "stop": ["long te"],
        "stream_options": {"include_usage": True},
        "max_tokens": 99,
    }
    whole = ask(server, "tell", **options)
    told = steps(whole)
    wanted = TEXT.partition("long te")[0]
    assert text_of(whole) == wanted
    for count in (1, 4, 5, 20, len(told) - 1, len(told)):
        blocks = whole.text.split("\n\n")
        marks = [at for at, block in enumerate(blocks) if block.startswith(":")]
        before = httpx.Response(200, text="\n\n".join(blocks[: marks[count - 1]]))
        rest = ask(server, "continue", **options, mesh_resume=begun_at(told, count))
        assert rest.status_code == 200, rest.text
        assert text_of(before) + text_of(rest) == wanted
        assert usage_of(rest) == usage_of(whole)
        assert steps(rest) == [
            step if at else {**step, "head": told[0]["head"]} for at, step in enumerate(told[count:])
        ]
        assert json.loads(rest.text.partition("data: ")[2].partition("\n")[0])["id"] == told[0]["head"]["id"]


def test_another_answer_is_not_continued(server: LlmServer, engine: ScriptedEngine) -> None:
    begun = begun_at(steps(ask(server, "tell")), 8)
    engine.say = lambda _: "Something else."
    assert ask(server, "continue", mesh_resume=begun).status_code == 409
    assert ask(server, "continue").status_code == 400
    assert ask(server, "continue", mesh_resume={**begun, "tokens": [-1]}).status_code == 400


@given(
    st.lists(st.sampled_from(['<tool_call>{"name": "f", "arguments": {"a": "é"}}', "</tool_call>", "ü", " x", "st"])),
    st.data(),
)
def test_choices_go_on_where_they_were(parts: list[str], data: Any) -> None:
    codec = ByteCodec()
    tokens = codec.encode("".join(parts))
    cut = data.draw(st.integers(0, len(tokens)))

    def choice() -> Choice:
        return Choice(0, codec, stops=["stop"], calls=ToolCallParser({"f"}))

    def said(made: Choice, rest: list[int]) -> list[Any]:
        deltas = [made.push(TokenEvent((token,))) for token in rest] + [made.push(TokenEvent((), finish="length"))]
        return [(piece, delta.finish) for delta in deltas for piece in delta.pieces]

    whole, resumed = choice(), choice()
    for token in tokens[:cut]:
        whole.push(TokenEvent((token,)))
    resumed.resume(tokens[:cut], None)
    assert said(resumed, tokens[cut:]) == said(whole, tokens[cut:])
    assert resumed.tokens == whole.tokens
