"""Text that has nothing to do with the question: system prompts that the model must read past."""

from __future__ import annotations

import random
from typing import Final

from examples.chat.training.words import NAMES, WORDS

SHORT: Final = (
    "You are a helpful assistant.",
    "You are a tiny model.",
    "You are a helpful, honest assistant. Answer briefly.",
    "Answer briefly.",
    "Be kind and precise.",
    "You are the assistant of a small shop.",
)
_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "bcdfghjklmnprstvwxz"
_MARKS: Final = (".", ".", ".", ".", "!", "?", ":", ";", ",", " -", ")", "...")


def strange_word(rng: random.Random) -> str:
    """A word that is in no list, of two to nine letters."""
    syllables = (rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4)))
    word = "".join(syllables) + rng.choice(("", "", "n", "r", "st"))
    return word.capitalize() if rng.random() < 0.1 else word


def _piece(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.55:
        return rng.choice(WORDS)
    if kind < 0.8:
        return strange_word(rng)
    if kind < 0.9:
        return str(rng.randrange(10 ** rng.randint(1, 4)))
    if kind < 0.97:
        return rng.choice(NAMES)
    return f"{strange_word(rng)}_{rng.randrange(100)}"


def sentence(rng: random.Random) -> str:
    text = " ".join(_piece(rng) for _ in range(rng.randint(3, 12)))
    opening = rng.choice(("", "", "", "You are ", "Rule {}: ", "Document {}. ", "Never ")).format(rng.randrange(100))
    return (opening + text)[:1].upper() + (opening + text)[1:] + rng.choice(_MARKS)


def passage(rng: random.Random, characters: int) -> str:
    """About this many characters: different sentences, or one sentence again and again."""
    separator = rng.choice((" ", " ", "\n"))
    again = sentence(rng) if rng.random() < 0.3 else None
    sentences: list[str] = []
    while sum(map(len, sentences)) < characters:
        sentences.append(again or sentence(rng))
    return separator.join(sentences)[:characters]


def system_prompt(rng: random.Random) -> str | None:
    """Most are absent or short; one in seven is long, up to some 500 tokens."""
    kind = rng.random()
    if kind < 0.5:
        return None
    if kind < 0.86:
        return rng.choice(SHORT)
    if kind < 0.94:
        return passage(rng, rng.randint(40, 400))
    return passage(rng, rng.randint(400, 1200))
