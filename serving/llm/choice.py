"""One choice of an answer: from an engine's events to what is new in its text and its calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from serving.llm.engine import TextCodec, TokenEvent
from serving.llm.text_stream import TextStream
from serving.llm.tool_calls import CallPiece, TextPiece, ToolCallParser

Finish = Literal["stop", "length", "tool_calls"]
_UNKNOWN: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log probability and those of its alternatives, likeliest first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    @property
    def data(self) -> list[int] | None:
        """Its UTF-8; None where it is a part of a character."""
        return utf8_of(self.text)


def utf8_of(text: str) -> list[int] | None:
    return None if _UNKNOWN in text else list(text.encode("utf-8"))


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What is new, and of which tokens. `finish` is in the last one."""

    index: int
    pieces: Sequence[TextPiece | CallPiece] = ()
    scored: Sequence[ScoredToken] = ()
    finish: Finish | None = None
    tokens: Sequence[int] = ()

    @property
    def empty(self) -> bool:
        return not self.pieces and not self.scored and self.finish is None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, TextPiece))


class Choice:
    """`push` events until `done`. `calls` finds calls of tools; with `single` the first one ends the choice."""

    def __init__(
        self,
        index: int,
        codec: TextCodec,
        *,
        stops: Sequence[str] = (),
        calls: ToolCallParser | None = None,
        single: bool = False,
    ) -> None:
        self.index = index
        self.tokens = 0
        self.told = 0  # of these, by another replica
        self.done = False
        self._codec = codec
        self._stops = bool(stops)
        self._stream = TextStream(codec.decode, stops)
        self._calls = calls
        self._single = single and calls is not None

    @property
    def ends_early(self) -> bool:
        """Whether it may be done before its engine is: somebody must look at each token then."""
        return self._stops or self._single

    def resume(self, tokens: Sequence[int], finish: Finish | None) -> None:
        """Begins behind what another replica has told; with `finish`, all is told. Before the first `push`."""
        if tokens:
            self.push(TokenEvent(tuple(tokens)))
        self.told = len(tokens)
        self.done = self.done or finish is not None

    def push(self, event: TokenEvent) -> ChoiceDelta:
        """The last one has `finish`: the engine's, or `stop` because of a stop text or an only call.

        Where the answer may end by itself it does so with the very token: what came behind it is no part of it.
        """
        if len(event.tokens) <= 1 or not self.ends_early:
            return self._push(event)
        deltas = []
        for one in _one_by_one(event):
            deltas.append(self._push(one))
            if self.done:
                break
        return _together(deltas)

    def _push(self, event: TokenEvent) -> ChoiceDelta:
        self.tokens += len(event.tokens)
        text = self._stream.push(event.tokens)
        finish: Finish | None = event.finish
        if finish:
            text += self._stream.finish()
        if self._stream.stopped_by is not None:
            finish = "stop"
        pieces = self._cut(text)
        if self._single and self._calls is not None and self._calls.calls:
            pieces = [piece for piece in pieces if isinstance(piece, CallPiece) and piece.index == 0]
            finish = "stop"
        elif finish and self._calls is not None:
            pieces += self._calls.finish()
        if finish == "stop" and self._calls is not None and self._calls.calls:
            finish = "tool_calls"
        self.done = finish is not None
        return ChoiceDelta(self.index, pieces, self._scored(event), finish, event.tokens)

    def _cut(self, text: str) -> list[TextPiece | CallPiece]:
        if self._calls is not None:
            return self._calls.push(text)
        return [TextPiece(text)] if text else []

    def _scored(self, event: TokenEvent) -> list[ScoredToken]:
        if not event.logprobs:
            return []
        tops: Sequence[Mapping[int, float]] = event.top_logprobs or [{}] * len(event.tokens)
        return [
            ScoredToken(self._codec.decode([token]), logprob, self._ranked(top))
            for token, logprob, top in zip(event.tokens, event.logprobs, tops, strict=True)
        ]

    def _ranked(self, top: Mapping[int, float]) -> tuple[tuple[str, float], ...]:
        ranked = sorted(top.items(), key=lambda item: -item[1])
        return tuple((self._codec.decode([token]), logprob) for token, logprob in ranked)


def _one_by_one(event: TokenEvent) -> Iterator[TokenEvent]:
    last = len(event.tokens) - 1
    for at in range(len(event.tokens)):
        one = slice(at, at + 1)
        finish = event.finish if at == last else None
        yield TokenEvent(event.tokens[one], event.logprobs[one], event.top_logprobs[one], finish, event.cached)


def _together(deltas: Sequence[ChoiceDelta]) -> ChoiceDelta:
    pieces: list[TextPiece | CallPiece] = []
    for piece in chain.from_iterable(delta.pieces for delta in deltas):
        if isinstance(piece, TextPiece) and pieces and isinstance(pieces[-1], TextPiece):
            pieces[-1] = TextPiece(pieces[-1].text + piece.text)
        else:
            pieces.append(piece)
    return ChoiceDelta(
        deltas[0].index,
        pieces,
        [token for delta in deltas for token in delta.scored],
        deltas[-1].finish,
        tuple(token for delta in deltas for token in delta.tokens),
    )
