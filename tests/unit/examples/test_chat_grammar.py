"""The grammar behind the tiny chat model: seeded, split in two, and right in what it says."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.chat.training import conversations, grammar, words
from examples.chat.training.conversations import Conversation
from examples.chat.training.grammar import Exchange

SEEDS: Final = st.integers(0, 2**32)
KINDS: Final = sorted(grammar.KINDS)
SHAPES: Final = sorted(conversations.SHAPES)


def questions(talk: Conversation) -> set[str]:
    return {str(message["content"]) for message in talk.messages if message["role"] == "user"}


def drawn(split: grammar.Split, kind: str, number: int) -> list[Exchange]:
    rng = random.Random(3)
    return [grammar.draw(rng, split, kind) for _ in range(number)]


@given(SEEDS, st.sampled_from(SHAPES), st.sampled_from(("train", "held_out")))
def test_the_same_seed_gives_the_same_conversation(seed: int, shape: str, split: grammar.Split) -> None:
    first, again = (conversations.draw(random.Random(seed), split, shape) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_question_is_trained_on(kind: str) -> None:
    trained = {exchange.question for exchange in drawn("train", kind, 2000)}
    held_out = {exchange.question for exchange in drawn("held_out", kind, 200)}
    assert len(held_out) >= 5
    assert not trained & held_out


@given(SEEDS, st.sampled_from(SHAPES))
def test_a_conversation_is_of_one_split_by_every_text_that_decides_its_answers(seed: int, shape: str) -> None:
    fixed = {*conversations.RECALL_QUESTIONS, *conversations.NAME_QUESTIONS}
    trained = questions(conversations.draw(random.Random(seed), "train", shape)) - fixed
    held_out = questions(conversations.draw(random.Random(seed), "held_out", shape)) - fixed
    assert {grammar.split_of(question) for question in trained} == {"train"}
    assert {grammar.split_of(question) for question in held_out} == {"held_out"}


@given(SEEDS, st.sampled_from(SHAPES))
def test_a_conversation_alternates_and_ends_with_the_assistant(seed: int, shape: str) -> None:
    talk = conversations.draw(random.Random(seed), "train", shape)
    roles = [message["role"] for message in talk.messages if message["role"] != "system"]
    assert roles[0] == "user"
    assert roles[-1] == "assistant"
    allowed = {
        ("user", "assistant"),
        ("assistant", "user"),
        ("assistant", "tool"),
        ("tool", "tool"),
        ("tool", "assistant"),
    }
    assert set(itertools.pairwise(roles)) <= allowed


@given(SEEDS)
def test_tools_are_called_only_where_they_are_given(seed: int) -> None:
    talk = conversations.draw(random.Random(seed), "train", "with_tools")
    given_tools = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in talk.tools}
    calls = [call for message in talk.messages for call in message.get("tool_calls", ())]
    assert calls
    for call in calls:
        assert list(json.loads(call["function"]["arguments"])) == given_tools[call["function"]["name"]]


@given(SEEDS)
def test_without_its_tool_nothing_is_looked_up(seed: int) -> None:
    talk = conversations.draw(random.Random(seed), "train", "without_tool")
    looked_up = next(lookup for lookup in conversations.LOOKUPS if lookup.cannot == talk.messages[-1]["content"])
    assert looked_up.tool not in {tool["function"]["name"] for tool in talk.tools}


def test_counts_have_every_number_once() -> None:
    for exchange in drawn("train", "count", 300):
        numbers = [int(number) for number in exchange.answer.split()]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert exchange.question.rstrip(".").endswith(str(numbers[-1]))


def test_echoes_say_what_the_question_ends_with() -> None:
    for exchange in drawn("train", "echo", 300):
        assert exchange.question.endswith(" " + exchange.answer)


def test_sums_are_right() -> None:
    for exchange in drawn("train", "sum", 300):
        first, _, second, _, total = exchange.answer.rstrip(".").split()
        assert int(first) + int(second) == int(total)


def test_json_answers_are_json_with_keys_in_order() -> None:
    for exchange in drawn("train", "json", 300):
        assert list(json.loads(exchange.answer)) in (["animal", "color"], ["name", "age"])


def test_yes_and_no_are_right() -> None:
    number = re.compile(r"Is (?:the number )?(\d+) (?:greater|more) than (\d+)\?")
    city = re.compile(r"Is (?:it true that )?(.+?) (?:is )?the capital (?:city )?of (.+)\?")
    for exchange in drawn("train", "yes_no", 300):
        if found := number.fullmatch(exchange.question):
            right = int(found[1]) > int(found[2])
        else:
            found = city.fullmatch(exchange.question)
            assert found is not None, exchange.question
            right = words.CAPITALS[found[2]] == found[1]
        assert exchange.answer.startswith("Yes, " if right else "No, ")


def test_a_system_prompt_may_be_long() -> None:
    rng = random.Random(4)
    talks = [conversations.draw(rng, "train") for _ in range(500)]
    systems = [talk.messages[0]["content"] for talk in talks if talk.messages[0]["role"] == "system"]
    assert max(map(len, systems)) > 1000
