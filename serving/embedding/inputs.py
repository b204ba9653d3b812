"""From what clients send to tokens: counted, checked, refused with the place of what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from serving.embedding.embedder import TokenEmbedder
from serving.errors import InvalidArgument

Input: TypeAlias = str | Sequence[int]
MAX_INPUTS: Final = 2048  # of one request, as OpenAI has it
_LONG: Final = 4_000  # characters; about a millisecond
_SLICE: Final = 64  # texts; between two of them others come to their turn, and a client that has gone is noticed


class InputRefused(InvalidArgument):
    """`place` is that of the input in its request; `error_code` a word for programs."""

    def __init__(self, message: str, place: int, error_code: str) -> None:
        super().__init__(message)
        self.place = place
        self.error_code = error_code


class Inputs:
    """Belongs to one event loop. Many or long texts are read on a thread of their own. `close` ends it."""

    def __init__(self, embedder: TokenEmbedder, *, cut: bool) -> None:
        """`cut` says whether the end of a text that is too long is left out, where a request does not say it."""
        self._embedder = embedder
        self._cut = cut
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-tokenizer")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, inputs: Sequence[Input], *, cut: bool | None = None) -> list[Sequence[int]]:
        """The tokens of each input. Texts get the model's special tokens; tokens are taken as they are.

        Raises `InputRefused` for an empty one, one that is too long and may not be cut, one that is not Unicode, and
        for tokens that the model does not have; `InvalidArgument` for too many of them.
        """
        if len(inputs) > MAX_INPUTS:
            raise InvalidArgument(f"there are {len(inputs)} inputs, at most {MAX_INPUTS} are taken")
        cuts = self._cut if cut is None else cut
        if sum(map(len, inputs)) < _LONG:
            return self._read(inputs, 0, cuts)
        read: list[Sequence[int]] = []
        loop = asyncio.get_running_loop()
        for start in range(0, len(inputs), _SLICE):
            part = inputs[start : start + _SLICE]
            read += await loop.run_in_executor(self._pool, self._read, part, start, cuts)
        return read

    def _read(self, inputs: Sequence[Input], start: int, cut: bool) -> list[Sequence[int]]:
        return [
            self._text(one, place, cut) if isinstance(one, str) else self._tokens(one, place)
            for place, one in enumerate(inputs, start)
        ]

    def _text(self, text: str, place: int, cut: bool) -> Sequence[int]:
        if not text:
            raise InputRefused("is empty", place, "invalid_value")
        try:
            tokens = self._embedder.tokenize(text)
        except InvalidArgument as error:
            raise InputRefused("is not Unicode text (it has a lone surrogate)", place, "invalid_value") from error
        if tokens.cut and not cut:
            limit = self._embedder.max_tokens
            raise InputRefused(
                f"has more than the {limit} tokens that this model reads, special ones included; shorten it, or have "
                "its end left out (`truncate`: true)",
                place,
                "context_length_exceeded",
            )
        return tokens.ids

    def _tokens(self, ids: Sequence[int], place: int) -> Sequence[int]:
        limit, vocabulary = self._embedder.max_tokens, self._embedder.vocabulary
        if not ids:
            raise InputRefused("is empty", place, "invalid_value")
        if len(ids) > limit:
            text = f"has {len(ids)} tokens, more than the {limit} that this model reads; tokens are never cut"
            raise InputRefused(text, place, "context_length_exceeded")
        if min(ids) < 0 or max(ids) >= vocabulary:
            wrong = next(one for one in ids if not 0 <= one < vocabulary)
            text = f"has the token {wrong}, which this model does not have (it has 0 to {vocabulary - 1}); send text"
            raise InputRefused(text, place, "invalid_value")
        return ids
