"""Questions for the tiny chat model of examples/chat, and what is wrong with answers to them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from examples.chat.training.words import CAPITALS

MODEL: Final = "tiny-chat"
SAMPLING: Final = {"temperature": 0, "max_tokens": 40}
_ASKS: Final = (
    "What is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital of {}.",
    "Which city is the capital of {}?",
    "I want to know the capital of {}.",
)
PROMPTS: Final = tuple(ask.format(country) for country in CAPITALS for ask in _ASKS)
_AT_ONCE: Final = 16
_ATTEMPTS: Final = 5
_FULL: Final = (429, 503)
_TIMEOUT_S: Final = 60.0


def rows(count: int) -> Iterator[dict[str, Any]]:
    """`count` rows, the questions over and over, each with a seed of its own.

    The most likely answer does not depend on it; but rows that are the same would be computed once.
    """
    for number in range(count):
        yield {"id": number, "prompt": PROMPTS[number % len(PROMPTS)], "sampling_params": {"seed": number}}


def body_of(prompt: str, **sampling: Any) -> dict[str, Any]:
    """A request to `/v1/chat/completions`."""
    return {"model": MODEL, **SAMPLING, **sampling, "messages": [{"role": "user", "content": prompt}]}


def known_answers(gateway: str) -> dict[str, str]:
    """The model's most likely answer to each question, asked once, one by one. `gateway`: `http://host:port`."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = threads.map(lambda prompt: _answer(gateway, prompt), PROMPTS)
        return dict(zip(PROMPTS, answers, strict=True))


def _answer(gateway: str, prompt: str) -> str:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{gateway}/v1/chat/completions", json.dumps(body_of(prompt)).encode(), headers)
    attempt = 0
    while True:
        attempt += 1
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return text_of(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code not in _FULL or attempt == _ATTEMPTS:
                raise
        time.sleep(0.2 * 2**attempt)  # the replica said that it is full


def text_of(completion: Mapping[str, Any]) -> str:
    """What the model said."""
    return str(completion["choices"][0]["message"]["content"])


def faults(found: Iterable[Mapping[str, Any]], count: int, known: Mapping[str, str]) -> list[str]:
    """What is wrong with the output of a job over `rows(count)`: `id` and `generated_text` of each row.

    `known` are the answers by prompt.
    """
    answers: dict[int, Any] = {}
    wrong: list[str] = []
    for row in found:
        if row["id"] in answers:
            wrong.append(f"row {row['id']} is there twice")
        answers[row["id"]] = row["generated_text"]
    for expected in rows(count):
        number, prompt = expected["id"], expected["prompt"]
        if number not in answers:
            wrong.append(f"row {number} is missing")
        elif answers.pop(number) != known[prompt]:
            wrong.append(f"row {number}: {prompt!r} was answered otherwise than {known[prompt]!r}")
    return wrong + [f"row {number} was never asked for" for number in answers]


def report(wrong: list[str], where: object) -> None:
    """Says the first ones, and ends the process."""
    for fault in wrong[:10]:
        print(fault)
    raise SystemExit(f"{len(wrong):,} faults; what was written is in {where}")
