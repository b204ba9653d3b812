"""How long a model's prompts and answers are, learned from those that went by. Pure."""

from __future__ import annotations

from typing import Final

_FIRST_BYTES_PER_TOKEN: Final = 4.0  # of English with usual tokenizers
_BYTES_PER_TOKEN: Final = (0.25, 64.0)  # believed bounds of what replicas report
_FIRST_ANSWER: Final = 128.0  # tokens
_LEARN: Final = 1 / 16  # how much of the mean the latest one makes up
_LEAST_PROMPT: Final = 256  # bytes: of shorter prompts most is the template's
_ENVELOPE: Final = 320  # bytes around the text of an answer that is not streamed


class Sizes:
    """Of one model."""

    def __init__(self) -> None:
        self.bytes_per_token = _FIRST_BYTES_PER_TOKEN
        self.answer_tokens = _FIRST_ANSWER
        self._prompts = 0
        self._answers = 0

    def prompt_tokens(self, prompt_bytes: int) -> float:
        return prompt_bytes / self.bytes_per_token

    def learn_prompt(self, prompt_bytes: int, tokens: int) -> None:
        """A replica has counted."""
        if prompt_bytes < _LEAST_PROMPT or tokens < 1:
            return
        low, high = _BYTES_PER_TOKEN
        self._prompts += 1
        share = max(_LEARN, 1 / self._prompts)
        self.bytes_per_token += share * (min(max(prompt_bytes / tokens, low), high) - self.bytes_per_token)

    def learn_answer(self, tokens: float) -> None:
        self._answers += 1
        self.answer_tokens += max(_LEARN, 1 / self._answers) * (tokens - self.answer_tokens)


class AnswerMeter:
    """Tokens of an answer on its way, roughly: events of a stream, or bytes of another one."""

    __slots__ = ("_bytes", "_events", "streamed")

    def __init__(self) -> None:
        self.streamed = False
        self._bytes = 0
        self._events = 0

    def add(self, part: bytes) -> None:
        self._bytes += len(part)
        if self.streamed:
            self._events += part.count(b"data: ")

    def tokens(self, bytes_per_token: float) -> float:
        return float(self._events) if self.streamed else max(1.0, (self._bytes - _ENVELOPE) / bytes_per_token)
