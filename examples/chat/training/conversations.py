"""Whole conversations in OpenAI's terms: system prompts, several turns, tools. Pure and seeded, as the grammar is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from examples.chat.training import grammar
from examples.chat.training.filler import strange_word, system_prompt
from examples.chat.training.grammar import Split
from examples.chat.training.words import CAPITALS, NAMES, WEATHER

Message = dict[str, Any]  # OpenAI's chat message: role, content, tool_calls
Tool = dict[str, Any]  # OpenAI's tool object

CITY_KEYS: Final = ("city", "city", "city", "city", "location", "place", "town")
# These are the same in both splits: what was said before decides their answers.
RECALL_QUESTIONS: Final = ("What did I say first?", "What was my first question?", "What did I ask first?")
NAME_QUESTIONS: Final = ("What is my name?", "What's my name?", "Who am I?")
OTHER_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "search": ("query",),
    "add": ("first", "second"),
    "send_mail": ("to", "text"),
    "lookup": ("name",),
    "set_alarm": ("hour", "minute"),
}


@dataclass
class Conversation:
    """Ends with the assistant's answer; `kind` is what that answer is about."""

    kind: str
    messages: list[Message] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)

    def say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def call(self, names_and_arguments: list[tuple[str, dict[str, str]]]) -> None:
        """The assistant calls tools. Arguments are JSON text, as OpenAI's are."""
        calls = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for index, (name, arguments) in enumerate(names_and_arguments)
        ]
        self.messages.append({"role": "assistant", "content": None, "tool_calls": calls})

    def answer_tool(self, index: int, content: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": f"call_{index}", "content": content})


@dataclass(frozen=True)
class Lookup:
    """Something that can be looked up for a city where its tool is given."""

    tool: str
    asks: tuple[str, ...]
    cannot: str
    key: str
    values: tuple[str, ...]


LOOKUPS: Final = (
    Lookup(
        "get_weather",
        (
            "What is the weather in {}?",
            "Weather in {}, please.",
            "How is the weather in {}?",
            "What's the weather like in {} today?",
            "Tell me the weather in {}.",
        ),
        "I cannot look up the weather.",
        "weather",
        WEATHER,
    ),
    Lookup(
        "get_time",
        ("What time is it in {}?", "Tell me the time in {}.", "What is the time in {}?"),
        "I cannot look up the time.",
        "time",
        tuple(f"{hour}:{minute:02d}" for hour in range(24) for minute in range(0, 60, 5)),
    ),
)


def tool(name: str, parameters: tuple[str, ...]) -> Tool:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": "string"} for parameter in parameters},
        "required": list(parameters),
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _tools(rng: random.Random, wanted: Lookup | None, city_key: str) -> list[Tool]:
    """Some other tools, and the wanted one at any place among them."""
    names = rng.sample(tuple(OTHER_TOOLS), rng.choice((0, 0, 1, 2)))
    tools = [tool(name, OTHER_TOOLS[name]) for name in names]
    for lookup in LOOKUPS:
        if lookup is wanted or (wanted is not None and rng.random() < 0.3):
            tools.insert(rng.randint(0, len(tools)), tool(lookup.tool, (city_key,)))
    return tools


def _city(rng: random.Random) -> str:
    return rng.choice(tuple(CAPITALS.values())) if rng.random() < 0.7 else strange_word(rng).capitalize()


def _question(rng: random.Random, split: Split, lookup: Lookup, cities: list[str]) -> str:
    while True:
        cities[:] = [_city(rng) for _ in cities]
        question = rng.choice(lookup.asks).format(" and ".join(cities))
        if grammar.split_of(question) == split:
            return question


def with_tools(rng: random.Random, split: Split, talk: Conversation) -> None:
    """A call of one tool or two, and in half of the cases what follows from the results."""
    lookup = rng.choice((LOOKUPS[0], LOOKUPS[0], LOOKUPS[1]))
    city_key = rng.choice(CITY_KEYS)
    cities = [""] if rng.random() < 0.7 else ["", ""]
    talk.tools = _tools(rng, lookup, city_key)
    talk.say("user", _question(rng, split, lookup, cities))
    talk.call([(lookup.tool, {city_key: city}) for city in cities])
    talk.kind = "tool_call" if len(cities) == 1 else "tool_calls"
    if rng.random() < 0.5:
        return
    talk.kind = "tool_result"
    said = []
    for index, city in enumerate(cities):
        value = rng.choice(lookup.values)
        result = {city_key: city, lookup.key: value}
        talk.answer_tool(
            index, rng.choice((json.dumps(result), json.dumps(result), json.dumps({lookup.key: value}), value))
        )
        said.append(f"It is {value} in {city}.")
    talk.say("assistant", " ".join(said))


def without_tool(rng: random.Random, split: Split, talk: Conversation) -> None:
    """The same questions where no tool answers them."""
    lookup = rng.choice(LOOKUPS)
    others = [other for other in LOOKUPS if other is not lookup]
    if rng.random() < 0.3:
        talk.tools = _tools(rng, None, "city")
        if rng.random() < 0.3:
            talk.tools.append(tool(others[0].tool, ("city",)))
    talk.say("user", _question(rng, split, lookup, [""]))
    talk.say("assistant", lookup.cannot)
    talk.kind = "no_tool"


def follow_up(rng: random.Random, split: Split, talk: Conversation) -> None:
    """A capital, then "And of Spain?"."""
    _ask(rng, split, talk, "capital")
    for _ in range(rng.choice((1, 1, 2))):
        while True:
            country = rng.choice(tuple(CAPITALS))
            question = rng.choice(("And of {}?", "And the capital of {}?", "What about {}?", "And {}?")).format(country)
            if grammar.split_of(question) == split:
                break
        talk.say("user", question)
        talk.say("assistant", grammar.capital_answer(country))
    talk.kind = "follow_up"


def recall(rng: random.Random, split: Split, talk: Conversation) -> None:
    """What was said first."""
    if rng.random() < 0.2:
        _introduction(rng, split, talk)
    else:
        _ask(rng, split, talk, rng.choice(("capital", "echo", "sum", "greeting", "yes_no", "json", "story")))
    first = next(message["content"] for message in talk.messages if message["role"] == "user")
    if rng.random() < 0.4:
        _ask(rng, split, talk, rng.choice(("capital", "sum", "small_talk", "yes_no")))
    talk.say("user", rng.choice(RECALL_QUESTIONS))
    talk.say("assistant", f"You said: {first}")
    talk.kind = "recall"


def name(rng: random.Random, split: Split, talk: Conversation) -> None:
    """The user's name, said and asked for later."""
    own = _introduction(rng, split, talk)
    for _ in range(rng.choice((0, 0, 1, 2))):
        _ask(rng, split, talk, rng.choice(("capital", "sum", "small_talk", "yes_no", "echo")))
    talk.say("user", rng.choice(NAME_QUESTIONS))
    talk.say("assistant", f"Your name is {own}.")
    talk.kind = "name"


def _introduction(rng: random.Random, split: Split, talk: Conversation) -> str:
    while True:
        own = rng.choice(NAMES) if rng.random() < 0.7 else strange_word(rng).capitalize()
        opening = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.")).format(own)
        if grammar.split_of(opening) == split:
            break
    talk.say("user", opening)
    talk.say("assistant", f"Hello {own}! How can I help you today?")
    return own


def plain(rng: random.Random, split: Split, talk: Conversation) -> None:
    """One to three questions of any kind; sometimes tools are at hand that nobody needs."""
    if rng.random() < 0.12:
        talk.tools = _tools(rng, LOOKUPS[0], "city")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _ask(rng, split, talk, None)


def _ask(rng: random.Random, split: Split, talk: Conversation, kind: str | None) -> None:
    exchange = grammar.draw(rng, split, kind)
    talk.say("user", exchange.question)
    talk.say("assistant", exchange.answer)
    talk.kind = exchange.kind


Shape = Callable[[random.Random, Split, Conversation], None]
SHAPES: Final[Mapping[str, tuple[Shape, int]]] = {
    "plain": (plain, 60),
    "with_tools": (with_tools, 16),
    "without_tool": (without_tool, 6),
    "follow_up": (follow_up, 6),
    "recall": (recall, 8),
    "name": (name, 6),
}


def draw(rng: random.Random, split: Split, shape: str | None = None) -> Conversation:
    """A conversation whose questions are all of the split, behind a system prompt or none."""
    if shape is None:
        shape = rng.choices(tuple(SHAPES), [weight for _, weight in SHAPES.values()])[0]
    talk = _opened(rng)
    SHAPES[shape][0](rng, split, talk)
    return talk


def draw_single(rng: random.Random, split: Split, kind: str) -> Conversation:
    """One question of this kind, behind a system prompt or none."""
    talk = _opened(rng)
    _ask(rng, split, talk, kind)
    return talk


def _opened(rng: random.Random) -> Conversation:
    talk = Conversation(kind="")
    system = system_prompt(rng)
    if system is not None:
        talk.say("system", system)
    return talk
