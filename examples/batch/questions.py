"""Questions for the tiny chat model of examples/chat, and their answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from examples.chat.training.words import CAPITALS

_ASKS: Final = (
    "What is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital of {}.",
    "Which city is the capital of {}?",
    "I want to know the capital of {}.",
)
PROMPTS: Final = tuple(ask.format(country) for country in CAPITALS for ask in _ASKS)


def rows(count: int) -> Iterator[dict[str, Any]]:
    """`count` rows, the questions over and over."""
    for number in range(count):
        yield {"id": number, "prompt": PROMPTS[number % len(PROMPTS)]}


def faults(found: list[Mapping[str, Any]], count: int, known: Mapping[str, str]) -> list[str]:
    """What is wrong with the output of a job over `rows(count)`; `known` are the answers by prompt."""
    by_id: dict[int, Mapping[str, Any]] = {}
    wrong: list[str] = []
    for row in found:
        if row["id"] in by_id:
            wrong.append(f"row {row['id']} is there twice")
        by_id[row["id"]] = row
    for expected in rows(count):
        row = by_id.pop(expected["id"], {})
        if not row:
            wrong.append(f"row {expected['id']} is missing")
        elif row["prompt"] != expected["prompt"] or row["answer"] != known[expected["prompt"]]:
            wrong.append(f"row {expected['id']}: {row['prompt']!r} was answered {row['answer']!r}")
    return wrong + [f"row {number} was never asked for" for number in by_id]
