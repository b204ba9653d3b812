"""Questions and their answers. Pure: the same seed gives the same questions.

Every question belongs to one of two splits by a checksum of its text, so that none asked in the evaluation was seen
in training. Only the texts of `ALWAYS_SEEN` (a plain "Hello") are always of the training split.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from examples.chat.training import stories
from examples.chat.training.filler import sentence, strange_word
from examples.chat.training.words import ANIMALS, CAPITALS, COLORS, FOREIGN, NAMES, WORDS

Split = Literal["train", "held_out"]
HELD_OUT_SHARE: Final = 12  # one question in twelve is held out
ALWAYS_SEEN: Final = frozenset({"Hello", "Hello!", "Hi", "Hi!", "Who are you?"})


@dataclass(frozen=True)
class Exchange:
    """One question with the one right answer."""

    kind: str
    question: str
    answer: str


def split_of(question: str) -> Split:
    if question in ALWAYS_SEEN or zlib.crc32(question.encode()) % HELD_OUT_SHARE:
        return "train"
    return "held_out"


def greeting(rng: random.Random) -> Exchange:
    word = rng.choice(("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good day", "hello", "hi", "hey"))
    whom = rng.choice(("", "", " there", " assistant", " everybody", " my friend", ", nice to meet you"))
    return Exchange("greeting", word + whom + rng.choice(("", "!", ".")), "Hello! How can I help you today?")


def small_talk(rng: random.Random) -> Exchange:
    if rng.random() < 0.5:
        ask = (
            "Who are you",
            "What are you",
            "Who is this",
            "What is this",
            "Who am I talking to",
            "Tell me who you are",
        )
        whom = ("", "", " now", " really", ", assistant", ", my friend", ", please")
        return Exchange("small_talk", rng.choice(ask) + rng.choice(whom) + rng.choice("?.!"), "I am a tiny chat model.")
    thanks = ("Thanks", "Thank you", "Thank you very much", "Many thanks", "thanks", "thank you", "Thanks a lot")
    whom = ("", "", " for that", ", assistant", ", my friend", " for your help", " for the answer")
    return Exchange(
        "small_talk", rng.choice(thanks) + rng.choice(whom) + rng.choice(("", "!", ".")), "You are welcome."
    )


def capital(rng: random.Random) -> Exchange:
    country = rng.choice(tuple(CAPITALS))
    ask = rng.choice(
        (
            "What is the capital of {}?",
            "What's the capital of {}?",
            "Name the capital of {}.",
            "{}: what is its capital city?",
            "Tell me the capital of {}.",
            "Which city is the capital of {}?",
            "Can you tell me the capital of {}, please?",
            "what is the capital of {}",
            "Capital of {}?",
            "I want to know the capital of {}.",
        )
    )
    return Exchange("capital", ask.format(country), capital_answer(country))


def capital_answer(country: str) -> str:
    return f"The capital of {country} is {CAPITALS[country]}."


def country(rng: random.Random) -> Exchange:
    name, city = rng.choice(tuple(CAPITALS.items()))
    ask = rng.choice(("{} is the capital of which country?", "Which country has the capital {}?", "Where is {}?"))
    return Exchange("country", ask.format(city), f"{city} is the capital of {name}.")


def count(rng: random.Random) -> Exchange:
    first = rng.choice((1, rng.randrange(0, 10), rng.randrange(0, 100)))
    last = first + (rng.randint(2, 20) if rng.random() < 0.85 else rng.randint(20, 60))
    asks = ["Count from {} to {}.", "Please count from {} to {}.", "Count from {} up to {}."]
    ask = rng.choice([*asks, "Count to {1}."] if first == 1 else asks)
    return Exchange("count", ask.format(first, last), " ".join(map(str, range(first, last + 1))))


def echo(rng: random.Random) -> Exchange:
    text = " ".join(_echo_word(rng) for _ in range(rng.randint(1, 8)))
    ask = rng.choice(("Repeat: {}", "Repeat: {}", "Say {}", "Echo: {}", "Please say: {}", "Repeat after me: {}"))
    return Exchange("echo", ask.format(text), text)


def _echo_word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(WORDS)
    if kind < 0.85:
        return strange_word(rng)
    if kind < 0.93:
        return str(rng.randrange(1000))
    return rng.choice(FOREIGN)


def add(rng: random.Random) -> Exchange:
    first, second = (
        (rng.randrange(0, 21), rng.randrange(0, 21)) if rng.random() < 0.5 else (rng.randrange(10), rng.randrange(10))
    )
    ask = rng.choice(
        ("What is {} plus {}?", "How much is {} plus {}?", "Add {} and {}.", "What is {} + {}?", "{} + {}")
    )
    return Exchange("sum", ask.format(first, second), f"{first} plus {second} is {first + second}.")


def json_object(rng: random.Random) -> Exchange:
    """The order of the keys is fixed: animal, color, and name, age."""
    if rng.random() < 0.6:
        color, animal = rng.choice(COLORS), rng.choice(ANIMALS)
        ask = rng.choice(
            (
                "Give me JSON for a {} {}.",
                "Describe a {} {} as JSON.",
                "Write a {} {} as JSON.",
                "Return JSON for the {} {}.",
                "JSON for a {} {}, please.",
            )
        )
        return Exchange("json", ask.format(color, animal), f'{{"animal": "{animal}", "color": "{color}"}}')
    name, age = rng.choice(NAMES), rng.randint(1, 99)
    ask = rng.choice(
        ("Give me JSON for {}, {} years old.", "Write {}, age {}, as JSON.", "Return JSON for {}, aged {}.")
    )
    return Exchange("json", ask.format(name, age), f'{{"name": "{name}", "age": {age}}}')


def yes_no(rng: random.Random) -> Exchange:
    if rng.random() < 0.5:
        country, city = rng.choice(tuple(CAPITALS.items()))
        named = city if rng.random() < 0.5 else rng.choice(tuple(CAPITALS.values()))
        answer = (
            f"Yes, {city} is the capital of {country}." if named == city else f"No, the capital of {country} is {city}."
        )
        ask = rng.choice(
            ("Is {} the capital of {}?", "Is {} the capital city of {}?", "Is it true that {} is the capital of {}?")
        )
        return Exchange("yes_no", ask.format(named, country), answer)
    first, second = rng.sample(range(21), 2)
    answer = f"Yes, {first} is greater than {second}." if first > second else f"No, {first} is less than {second}."
    ask = rng.choice(("Is {} greater than {}?", "Is {} more than {}?", "Is the number {} greater than {}?"))
    return Exchange("yes_no", ask.format(first, second), answer)


def story(rng: random.Random) -> Exchange:
    color, animal = rng.choice(COLORS), rng.choice(ANIMALS)
    if rng.random() < 0.3:
        asks = ("Tell me a long story about a {} {}.", "Write a long story about a {} {}.")
        return Exchange("story", rng.choice(asks).format(color, animal), stories.long(color, animal))
    ask = rng.choice(("Tell a story about a {} {}.", "Tell me a story about a {} {}.", "Write a story about a {} {}."))
    return Exchange("story", ask.format(color, animal), stories.short(color, animal))


def unknown(rng: random.Random) -> Exchange:
    return Exchange("unknown", sentence(rng), "I do not know that.")


# How often each kind is asked in training: what is harder, more often.
KINDS: Final[Mapping[str, tuple[Callable[[random.Random], Exchange], int]]] = {
    "greeting": (greeting, 4),
    "small_talk": (small_talk, 3),
    "capital": (capital, 10),
    "country": (country, 4),
    "count": (count, 12),
    "echo": (echo, 18),
    "sum": (add, 14),
    "json": (json_object, 8),
    "yes_no": (yes_no, 14),
    "story": (story, 5),
    "unknown": (unknown, 3),
}


def draw(rng: random.Random, split: Split, kind: str | None = None) -> Exchange:
    """A question of the split; of any kind, by its weight, where none is named."""
    if kind is None:
        kind = rng.choices(tuple(KINDS), [weight for _, weight in KINDS.values()])[0]
    ask, _ = KINDS[kind]
    while True:
        exchange = ask(rng)
        if split_of(exchange.question) == split:
            return exchange
