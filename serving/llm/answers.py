"""From what is new in choices to the chunks, or the one answer, of a chat completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from serving.llm.choice import ChoiceDelta, Finish, ScoredToken, utf8_of
from serving.llm.tool_calls import CallPiece, TextPiece
from serving.openai.chat_answers import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    ToolCallDelta,
    ToolCallObject,
)
from serving.openai.service_tier import ServiceTier
from serving.openai.usage import Usage


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What stands in the answer and in each of its pieces. `created` is a unix time in seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    tier: str = ServiceTier.DEFAULT.value


class ChatChunks:
    """The chunks of a stream: of each choice its role first, then what is new, then why it ended."""

    def __init__(self, head: AnswerHead, new_id: Callable[[], str], *, logprobs: bool, include_usage: bool) -> None:
        self._head = head
        self._new_id = new_id
        self._logprobs = logprobs
        self._include_usage = include_usage

    def begin(self, choices: int) -> Iterator[ChatCompletionChunk]:
        for index in range(choices):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def of(self, new: ChoiceDelta) -> Iterator[ChatCompletionChunk]:
        """Log probabilities stand in the first chunk of what they came with."""
        scored: Sequence[ScoredToken] = new.scored
        for piece in new.pieces:
            delta: Delta = (
                {"content": piece.text} if isinstance(piece, TextPiece) else {"tool_calls": [self._call(piece)]}
            )
            yield self._chunk(new.index, delta, scored)
            scored = ()
        if scored:  # of tokens whose text is held back
            yield self._chunk(new.index, {"content": ""}, scored)
        if new.finish is not None:
            yield self._chunk(new.index, {}, finish=new.finish)

    def end(self, usage: Usage) -> Iterator[ChatCompletionChunk]:
        """The chunk without choices, where usage is asked for."""
        if self._include_usage:
            yield {**self._frame([]), "usage": usage}

    def _call(self, piece: CallPiece) -> ToolCallDelta:
        if piece.name is None:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        return {
            "index": piece.index,
            "id": self._new_id(),
            "type": "function",
            "function": {"name": piece.name, "arguments": piece.arguments},
        }

    def _chunk(
        self, index: int, delta: Delta, scored: Sequence[ScoredToken] = (), finish: FinishReason | None = None
    ) -> ChatCompletionChunk:
        logprobs = logprobs_object(scored) if self._logprobs and scored else None
        chunk = self._frame([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])
        return {**chunk, "usage": None} if self._include_usage else chunk

    def _frame(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "choices": choices,
            "service_tier": self._head.tier,
            "system_fingerprint": self._head.fingerprint,
        }


@dataclass(slots=True)
class _Gathered:
    text: list[str] = field(default_factory=list)
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish: Finish = "stop"

    def add(self, new: ChoiceDelta) -> None:
        for piece in new.pieces:
            if isinstance(piece, TextPiece):
                self.text.append(piece.text)
            elif piece.name is not None:
                self.calls.append((piece.name, [piece.arguments]))
            else:
                self.calls[-1][1].append(piece.arguments)
        self.scored.extend(new.scored)
        self.finish = new.finish or self.finish

    def message(self, new_id: Callable[[], str]) -> AnswerMessage:
        """Its content is null where there are only calls."""
        text = "".join(self.text)
        if not self.calls:
            return {"role": "assistant", "content": text, "refusal": None}
        calls: list[ToolCallObject] = [
            {"id": new_id(), "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for name, arguments in self.calls
        ]
        return {"role": "assistant", "content": text or None, "refusal": None, "tool_calls": calls}


class ChatAnswer:
    """Gathers what is new, and gives the whole."""

    def __init__(self, head: AnswerHead, new_id: Callable[[], str], choices: int, *, logprobs: bool) -> None:
        self._head = head
        self._new_id = new_id
        self._logprobs = logprobs
        self._choices = [_Gathered() for _ in range(choices)]

    def add(self, new: ChoiceDelta) -> None:
        self._choices[new.index].add(new)

    def whole(self, usage: Usage) -> ChatCompletion:
        return {
            "id": self._head.id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(index, item) for index, item in enumerate(self._choices)],
            "usage": usage,
            "service_tier": self._head.tier,
            "system_fingerprint": self._head.fingerprint,
        }

    def _choice(self, index: int, gathered: _Gathered) -> ChatChoice:
        return {
            "index": index,
            "message": gathered.message(self._new_id),
            "logprobs": logprobs_object(gathered.scored) if self._logprobs else None,
            "finish_reason": gathered.finish,
        }


def logprobs_object(scored: Sequence[ScoredToken]) -> ChoiceLogprobs:
    return {
        "content": [
            {
                "token": token.text,
                "logprob": token.logprob,
                "bytes": token.data,
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": utf8_of(text)} for text, logprob in token.top
                ],
            }
            for token in scored
        ],
        "refusal": None,
    }
