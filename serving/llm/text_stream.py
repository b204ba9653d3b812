"""Tokens of one generation → pieces of its text: never half a character, never a part of a stop string. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serving.errors import InvalidArgument

HALF_A_CHARACTER = "\ufffd"
# A character has at most four bytes, so at most four tokens of a byte-level vocabulary. What is kept above that is for
# detokenizers that look at the token before (a word's leading space); what is decoded again stays bounded.
_KEPT_TOKENS = 16
_MOST_TOKENS = 64


class TextStream:
    """Hand it tokens in any portions, and put together what it returns: the text of all, cut at the first stop string.

    The first is the one that is complete first; of several that end at the same place, the longest. It is no part of
    the text. `decode` is that of a `TextCodec`, and is called with the last tokens only.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        """Raises `InvalidArgument` for an empty stop string."""
        if not all(stop):
            raise InvalidArgument("stop: a stop string is empty; it would end every text before its first character")
        self._decode = decode
        self._stop = tuple(stop)
        self._window: list[int] = []  # the last tokens
        self._sent = 0  # characters of their text that are in `_held`, or were returned
        self._held = ""  # text that may be the beginning of a stop string
        self._matched: str | None = None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, if one did: what follows is not wanted any more."""
        return self._matched

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain now and was not before; often empty."""
        if self._matched is not None or not tokens:
            return ""
        self._window.extend(tokens)
        text = self._decode(self._window)
        certain = len(text) - text.endswith(HALF_A_CHARACTER)
        new = text[self._sent : certain]
        self._sent = max(self._sent, certain)
        self._forget(whole=certain == len(text))
        return self._without_stop(new)

    def finish(self) -> str:
        """What was held back and is text after all: no more tokens come."""
        if self._matched is not None:
            return ""
        rest = self._decode(self._window)[self._sent :]
        self._window.clear()
        self._sent = 0
        text = self._without_stop(rest) + self._held
        self._held = ""
        return text

    def _forget(self, *, whole: bool) -> None:
        """Drops the tokens that cannot change what follows; `whole`: the text does not end inside a character."""
        if len(self._window) < _MOST_TOKENS:
            return
        del self._window[:-_KEPT_TOKENS]
        self._sent = len(self._decode(self._window)) - (not whole)

    def _without_stop(self, new: str) -> str:
        if not self._stop:
            return new
        text = self._held + new
        start = self._first_stop(text)
        if start is None:
            kept = self._beginning_of_a_stop(text)
            self._held = text[len(text) - kept :]
            return text[: len(text) - kept]
        self._held = ""
        return text[:start]

    def _first_stop(self, text: str) -> int | None:
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if not found:
            return None
        _, start, self._matched = min(found)
        return start

    def _beginning_of_a_stop(self, text: str) -> int:
        """How many of the last characters could become a stop string."""
        for size in range(min(len(text), max(map(len, self._stop)) - 1), 0, -1):
            end = text[len(text) - size :]
            if any(stop.startswith(end) for stop in self._stop):
                return size
        return 0
