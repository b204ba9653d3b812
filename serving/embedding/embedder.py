"""The one interface to embedding models, and how texts of different lengths go into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_SLACK_TOKENS: Final = 8  # texts that differ by no more always share a batch


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to `n` texts, in their order.

    `vectors` are [n, dimension], each of length 1. `tokens` were computed for each text, special ones included. Where
    `cut` is true the text was longer than the model reads, and its end counted for nothing.
    """

    vectors: Vectors
    tokens: tuple[int, ...]
    cut: tuple[bool, ...]


class Embedder(Protocol):
    """One model, loaded. All of it may be called from any thread; calls block until they are computed."""

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The most tokens of one text that count, special ones included."""
        ...

    @property
    def name(self) -> str:
        """The model and how it is computed. Vectors of different names do not compare."""
        ...

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Raises `InvalidArgument` for texts that are not Unicode (lone surrogates). No texts give no vectors."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of `encode`: float32 [n, dimension]."""
        ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one text, special ones included. Where `cut` is true, it has more than the model reads, and these are left."""

    ids: tuple[int, ...]
    cut: bool


class TokenEmbedder(Embedder, Protocol):
    """An embedder whose two halves can be asked for alone: tokens can be counted, and checked, before they wait."""

    @property
    def vocabulary(self) -> int:
        """Tokens are 0 to this, excluded."""
        ...

    def tokenize(self, text: str) -> Tokens:
        """Raises `InvalidArgument` for what is not Unicode text."""
        ...

    def compute(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        """Of tokens as they are: 1 to `max_tokens` of the vocabulary each. float32 [n, dimension]."""
        ...


def plan_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Places of texts for each batch, such that padding stays small: at most a third of the shortest text's length.

    A batch is padded to its longest text and then has at most `max_batch_tokens`, or one text. Longest come first, so
    that a device allocates once.
    """
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        near = longest <= lengths[place] * 4 // 3 + _SLACK_TOKENS
        if batches and near and longest * (len(batches[-1]) + 1) <= max_batch_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest = lengths[place]
    return batches
