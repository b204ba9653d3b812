"""How easy a text is to read: Flesch's formula, behind FastAPI, in Ray Serve.

Source of the formula: R. Flesch, "A new readability yardstick", Journal of Applied Psychology 32 (1948).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fastapi import Body, FastAPI, HTTPException
from ray import serve

api = FastAPI(title="Readability")


@dataclass
class Counts:
    sentences: int
    words: int
    syllables: int


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Counter:
    """Counts as well as one can without a dictionary: a syllable is a group of vowels."""

    def count(self, text: str) -> Counts:
        words = re.findall(r"[A-Za-z']+", text)
        sentences = len(re.findall(r"[.!?]+", text))
        syllables = sum(max(1, len(re.findall(r"[aeiouy]+", word.lower()))) for word in words)
        return Counts(max(1, sentences), len(words), syllables)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(api)
class Readability:
    def __init__(self, counter: Any) -> None:
        self.counter = counter

    @api.post("/ease")
    async def ease(self, text: str = Body(embed=True)) -> dict[str, float]:
        counts = await self.counter.count.remote(text)
        if not counts.words:
            raise HTTPException(422, "the text has no words")
        words = counts.words / counts.sentences
        syllables = counts.syllables / counts.words
        return {"ease": round(206.835 - 1.015 * words - 84.6 * syllables, 2)}


app = Readability.bind(Counter.bind())  # type: ignore[attr-defined] # decorators made deployments of both
