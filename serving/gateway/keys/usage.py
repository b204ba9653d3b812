"""What an answer cost, read while it passes through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from serving.errors import DeadlineExceeded
from serving.openai.usage_report import HEADER, REPORT, tokens_in, without_comment
from serving.wire import ClientGone

_TAIL_BYTES: Final = 4096  # of a whole answer, where other servers than ours say what it cost
_USAGE: Final = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')
_DATA: Final = b"data:"
_OK: Final = range(200, 300)
REQUEST_HEADERS: Final = {HEADER: REPORT}


class UsageReader:
    """One answer's. Fed with all of its bytes in order; `tokens` may be asked at any time."""

    def __init__(self, prompt_tokens: int) -> None:
        """`prompt_tokens` is the estimate that counts when the answer does not say."""
        self._prompt = prompt_tokens
        self._told: int | None = None
        self._begun = False
        self._events = 0
        self._tail = b""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer. One that is no success costs nothing; after one that was, no other makes it free."""
        self._begun = self._begun or status in _OK
        self._told = tokens_in(headers.get(HEADER, "").encode("latin-1", "replace"))

    def events(self, data: bytes) -> bytes:
        """Whole events, as they are to be passed on."""
        data, told = without_comment(data)
        if told:
            self._told = tokens_in(told)
        elif (found := _last_usage(data)) is not None:
            self._told = found
        self._events += data.count(_DATA)
        return data

    def body(self, data: bytes) -> None:
        """A piece of an answer that is no stream."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def charge(self, tokens: int) -> None:
        """Of what is answered later, by somebody else: what it may cost."""
        self._begun = True
        self._told = tokens

    @contextmanager
    def until_gone(self) -> Iterator[None]:
        """Who goes away, or whose time is over, before the answer begins pays for a prompt that may be computed."""
        try:
            yield
        except (ClientGone, DeadlineExceeded):
            self._begun = True
            raise

    @property
    def tokens(self) -> int:
        if not self._begun:
            return 0
        told = self._told if self._told is not None else _last_usage(self._tail)
        return told if told is not None else self._prompt + self._events


def _last_usage(data: bytes) -> int | None:
    if b'"usage"' not in data:
        return None
    places = [found.end() for found in _USAGE.finditer(data)]
    return tokens_in(data[places[-1] :]) if places else None
