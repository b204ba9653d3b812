"""Batches of about the same number of tokens. Pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.chat.training import conversations
from examples.chat.training.tokenizer import END_OF_TEXT, END_OF_TURN, SPECIAL, START_OF_TURN, encode

LONGEST: Final = 640  # tokens of one conversation; longer ones are not trained on
_POOL: Final = 512  # conversations sorted by length at a time, so that little of a batch is padding

Row = tuple[list[int], list[bool]]  # tokens, and whether each is to be learnt


@dataclass(frozen=True)
class Batch:
    """`tokens` [rows, length]; `spoken` [rows, length] is true where the token is to be learnt."""

    tokens: Tensor
    spoken: Tensor


def copies(seed: int, vocabulary: int, tokens_per_batch: int, longest: int) -> Iterator[Batch]:
    """Random tokens and the same again: what teaches a small network to copy, long before it would find that by itself.

    `longest` is how many tokens are copied at most. Short ones are learnt first, and much faster.
    """
    rng = random.Random(seed)
    length = 8 * longest
    while True:
        rows = [_copied(rng, vocabulary, length, longest) for _ in range(tokens_per_batch // length)]
        yield _padded(rows)


def _copied(rng: random.Random, vocabulary: int, length: int, longest: int) -> Row:
    tokens: list[int] = []
    spoken: list[bool] = []
    while len(tokens) < length:
        some = [rng.randrange(len(SPECIAL), vocabulary) for _ in range(rng.randint(1, longest))]
        tokens += [START_OF_TURN, *some, END_OF_TURN, *some, END_OF_TEXT]
        spoken += [False] * (len(some) + 2) + [True] * (len(some) + 1)
    return tokens[:length], spoken[:length]


def talks(seed: int, tokenizer: Tokenizer, tokens_per_batch: int) -> Iterator[Batch]:
    """Conversations of the training split."""
    rng = random.Random(seed)
    while True:
        pool = [encode(tokenizer, conversations.draw(rng, "train")) for _ in range(_POOL)]
        pool = sorted((pair for pair in pool if len(pair[0]) <= LONGEST), key=lambda pair: len(pair[0]))
        groups: list[list[Row]] = [[]]
        for pair in pool:
            if len(pair[0]) * (len(groups[-1]) + 1) > tokens_per_batch:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        yield from map(_padded, groups)


def _padded(rows: list[Row]) -> Batch:
    length = max(len(tokens) for tokens, _ in rows)
    tokens = [row + [END_OF_TEXT] * (length - len(row)) for row, _ in rows]
    spoken = [row + [False] * (length - len(row)) for _, row in rows]
    return Batch(torch.tensor(tokens), torch.tensor(spoken))
