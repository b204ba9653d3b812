"""From what is new in choices to the pieces, or the one answer, of a completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serving.llm.answers import AnswerHead
from serving.llm.choice import ChoiceDelta, ScoredToken
from serving.openai.completions import Completion, CompletionChoice, CompletionLogprobs
from serving.openai.usage import Usage


class CompletionAnswer:
    """`echoes` are the texts that choices begin with. `logprobs`: how many alternatives were asked for; None: none."""

    def __init__(self, head: AnswerHead, echoes: Sequence[str], *, logprobs: int | None, include_usage: bool) -> None:
        self._head = head
        self._echoes = list(echoes)
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._said: list[list[ChoiceDelta]] = [[] for _ in echoes]
        self._offsets = [len(text) for text in echoes]

    def begin(self) -> Iterator[Completion]:
        """What a stream begins with."""
        for index, text in enumerate(self._echoes):
            if text:
                yield self._piece([{"index": index, "text": text, "logprobs": None, "finish_reason": None}])

    def of(self, new: ChoiceDelta) -> Iterator[Completion]:
        """A piece of a stream; none where nothing is new."""
        if not new.empty:
            yield self._piece([self._choice(new.index, [new], "")])

    def end(self, usage: Usage) -> Iterator[Completion]:
        """The piece without choices, where usage is asked for."""
        if self._include_usage:
            yield {**self._piece([]), "usage": usage}

    def add(self, new: ChoiceDelta) -> None:
        """For `whole`."""
        self._said[new.index].append(new)

    def whole(self, usage: Usage) -> Completion:
        choices = [self._choice(index, said, self._echoes[index]) for index, said in enumerate(self._said)]
        return {**self._frame(choices), "usage": usage}

    def _piece(self, choices: list[CompletionChoice]) -> Completion:
        return {**self._frame(choices), "usage": None} if self._include_usage else self._frame(choices)

    def _frame(self, choices: list[CompletionChoice]) -> Completion:
        return {
            "id": self._head.id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": choices,
            "system_fingerprint": self._head.fingerprint,
        }

    def _choice(self, index: int, said: Sequence[ChoiceDelta], echo: str) -> CompletionChoice:
        finish = said[-1].finish if said else None
        scored = [token for new in said for token in new.scored]
        return {
            "index": index,
            "text": echo + "".join(new.text for new in said),
            "logprobs": self._scored(index, scored) if self._logprobs is not None else None,
            "finish_reason": "stop" if finish == "tool_calls" else finish,
        }

    def _scored(self, index: int, scored: Sequence[ScoredToken]) -> CompletionLogprobs:
        offsets: list[int] = []
        for token in scored:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token.text)
        return {
            "tokens": [token.text for token in scored],
            "token_logprobs": [token.logprob for token in scored],
            "top_logprobs": [dict(token.top) for token in scored] if self._logprobs else None,
            "text_offset": offsets,
        }
