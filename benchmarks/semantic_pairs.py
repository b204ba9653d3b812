"""Labelled pairs of questions for the semantic cache: paraphrases, near misses, unrelated ones; from fixed seeds.

Every sentence is made of a template and a filler, over twelve domains. The paraphrases are what people write; some use
words that the cache's own tables do not know, and must be missed rather than guessed. The sentences are in
`semantic_sentences.json`; `python -m benchmarks.semantic_pairs` prints all pairs, one JSON array for each.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Label = Literal["paraphrase", "near miss", "unrelated"]
SEED: Final = 7
PARAPHRASES: Final = 400
UNRELATED: Final = 400
EACH_KIND: Final = 40


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions. `kind` is what a near miss differs in, or a paraphrase's domain."""

    label: Label
    kind: str
    left: str
    right: str


_SENTENCES: Final = json.loads((Path(__file__).parent / "semantic_sentences.json").read_text())
# domain: forms of one question, fillers of {x}
SAME: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    domain: (tuple(found["forms"]), tuple(found["fillers"])) for domain, found in _SENTENCES["same"].items()
}
# kind: pairs of templates, pairs of fillers for {x} of the one and {y} of the other
DIFFERENT: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    kind: (tuple(found["templates"]), tuple(found["fillers"])) for kind, found in _SENTENCES["different"].items()
}


def paraphrases() -> list[Pair]:
    chance = random.Random(SEED)
    found = [
        Pair("paraphrase", domain, left.format(x=filler), right.format(x=filler))
        for domain, (forms, fillers) in SAME.items()
        for filler in fillers
        for left, right in itertools.permutations(forms, 2)
    ]
    return chance.sample(found, PARAPHRASES)


def near_misses() -> list[Pair]:
    chance = random.Random(SEED + 1)
    found = []
    for kind, (templates, fillers) in DIFFERENT.items():
        every = []
        for template, filler in itertools.product(templates, fillers):
            left, right = template.split(" | ")
            one, other = filler.split(" | ")
            pair = left.format(x=one), right.format(y=other)
            every += [Pair("near miss", kind, *pair), Pair("near miss", kind, *pair[::-1])]
        found += chance.sample(every, min(EACH_KIND, len(every)))
    return found


def unrelated() -> list[Pair]:
    chance = random.Random(SEED + 2)
    asked = {domain: [form.format(x=x) for form in forms for x in fillers] for domain, (forms, fillers) in SAME.items()}
    found = []
    for _ in range(UNRELATED):
        one, other = chance.sample(sorted(asked), 2)
        found.append(Pair("unrelated", f"{one}/{other}", chance.choice(asked[one]), chance.choice(asked[other])))
    return found


def all_pairs() -> list[Pair]:
    return paraphrases() + near_misses() + unrelated()


if __name__ == "__main__":
    for pair in all_pairs():
        sys.stdout.write(json.dumps([pair.label, pair.kind, pair.left, pair.right], ensure_ascii=False) + "\n")
