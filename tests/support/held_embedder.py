"""An embedder that computes when it is let: so that a test knows what waits meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from serving.embedding.embedder import Embeddings, Tokens, Vectors

BAD: Final = 99  # a token with which computing fails


class HeldEmbedder:
    """A `TokenEmbedder`: the tokens of a text are its letters' places in the alphabet, [count, first] its vector."""

    dimension = 2
    max_tokens = 8
    name = "held"
    vocabulary = 100

    def __init__(self, *, held: bool = True) -> None:
        self.may_go = threading.Event()
        self.began = threading.Event()
        self.calls: list[list[tuple[int, ...]]] = []
        if not held:
            self.may_go.set()

    def tokenize(self, text: str) -> Tokens:
        ids = tuple((ord(letter) - ord("a")) % 26 for letter in text)
        return Tokens(ids[: self.max_tokens], len(ids) > self.max_tokens)

    def compute(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        self.calls.append([tuple(one) for one in inputs])
        self.began.set()
        assert self.may_go.wait(60)
        if any(BAD in one for one in inputs):
            raise RuntimeError("the device is gone")
        return np.array([[len(one), one[0]] for one in inputs], dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        read = [self.tokenize(text) for text in texts]
        ids = [one.ids for one in read]
        return Embeddings(self.compute(ids), tuple(map(len, ids)), tuple(one.cut for one in read))

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.encode(texts).vectors
