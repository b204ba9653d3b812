"""`langchain-openai` at the gateway and at a replica: plain, streamed, asynchronous, with tools and with schemas."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from openai import BadRequestError
from pydantic import BaseModel

from tests.integration.openai_clients.conftest import Served

QUESTION = "What is the capital of Japan?"


@tool
def get_weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather in a city."""
    return f"{city}: rain"


class Pet(BaseModel):
    """An animal of a household."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


@pytest.fixture
def chat(base: str, served: Served) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{base}/v1", api_key="none", model=served.model, temperature=0, max_retries=0, timeout=60
    )


def test_invoke_and_stream(chat: ChatOpenAI) -> None:
    answer = chat.invoke(QUESTION)
    assert "Tokyo" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = list(chat.stream(QUESTION, stream_usage=True))
    assert len(chunks) > 2
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == answer.content
    assert whole.usage_metadata["total_tokens"] == answer.usage_metadata["total_tokens"]


async def test_asynchronous(chat: ChatOpenAI) -> None:
    answers = await chat.abatch([QUESTION, "What is the capital of France?"])
    assert ["Tokyo" in answers[0].content, "Paris" in answers[1].content] == [True, True]
    assert "Tokyo" in "".join([chunk.content async for chunk in chat.astream(QUESTION)])


def test_a_tool_is_called_and_answered(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Oslo?")
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", {"city": "Oslo"})]
    streamed: Any = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [("get_weather", {"city": "Oslo"})]
    result = get_weather.invoke(answer.tool_calls[0])
    assert isinstance(result, ToolMessage)
    last = bound.invoke([question, answer, result])
    assert isinstance(last, AIMessage)
    assert last.content or last.tool_calls
    forced = chat.bind_tools([get_weather], tool_choice="get_weather").invoke("Hello")
    assert [call["name"] for call in forced.tool_calls] == ["get_weather"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: ChatOpenAI, method: Any) -> None:
    found = chat.with_structured_output(Pet, method=method).invoke("Hello")
    assert isinstance(found, Pet)


def test_the_responses_protocol(base: str, served: Served) -> None:
    chat = ChatOpenAI(
        base_url=f"{base}/v1", api_key="none", model=served.model, temperature=0, use_responses_api=True, max_retries=0
    )
    answer = chat.invoke(QUESTION)
    assert "Tokyo" in answer.text
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == answer.text


def test_completions_and_errors(base: str, served: Served, chat: ChatOpenAI) -> None:
    text = OpenAI(base_url=f"{base}/v1", api_key="none", model=served.model, temperature=0, max_tokens=4, max_retries=0)
    assert text.invoke("Hello")
    with pytest.raises(BadRequestError, match="context"):
        chat.invoke("x " * 100_000)
